"""The heads of recipes state command, time and figures; recipes whose data exist pass `richkd check`."""

from __future__ import annotations

import re
from pathlib import Path

import pyarrow.parquet as parquet
import pytest
import yaml

from richkd.cli import app
from richkd.config.schema import Config
from tests.docs.blocks import ROOT
from tests.docs.commands import check_richkd, commands_of
from tests.docs.test_code_blocks import LINK, RECIPES, command_lines, head_of

INDEX = ROOT / "recipes" / "README.md"
PUBLISHED = re.compile(r"(\d\d\.\d\d) %")


def command_of(recipe: Path) -> list[str]:
    (words,) = commands_of(command_lines(head_of(recipe)))
    return words


def test_the_index_has_all_recipes_and_no_other() -> None:
    linked = [name for name in LINK.findall(INDEX.read_text(encoding="utf-8")) if name.endswith(".yaml")]
    assert sorted(linked) == sorted(recipe.name for recipe in RECIPES)


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda file: file.stem)
def test_a_head_has_its_own_command_the_time_and_figures_with_their_source(recipe: Path) -> None:
    head, words = head_of(recipe), command_of(recipe)
    assert words[words.index("-c") + 1] == f"recipes/{recipe.name}"
    assert re.search(
        r"Time(?: and figures)?: not measured|Time, estimated by .*EPYC.*hours|"
        r"minutes on .*(EPYC|H200)|Measured with",
        head,
    )
    if PUBLISHED.search(head):
        assert re.search(r"published|on test after the last epoch|Measured with", head)
    assert max(map(len, recipe.read_text(encoding="utf-8").splitlines())) <= 120


def test_runs_have_their_own_folders() -> None:
    folders = [yaml.safe_load(recipe.read_text(encoding="utf-8"))["out"] for recipe in RECIPES]
    assert len(folders) == len(set(folders))


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda file: file.stem)
def test_the_head_names_the_teachers_of_the_recipe(recipe: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    config = check_richkd(command_of(recipe)[1:])
    assert config is not None
    settings = yaml.safe_load(recipe.read_text(encoding="utf-8"))
    given = [teacher["name"] for teacher in settings.get("teachers", ())]
    assert not given or [teacher.name for teacher in config.teachers] == given


@pytest.fixture(scope="session")
def some_data(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of real data sets with a part of CIFAR-100, because a check decodes every image."""
    folder = tmp_path_factory.mktemp("recipes")
    for path in data_dir.iterdir():
        if path.name != "cifar100":
            (folder / path.name).symlink_to(path)
    (folder / "cifar100").mkdir()
    for name, rows in (("train-00000-of-00003", 2000), ("test-00000-of-00001", 500)):
        if (data_dir / "cifar100" / f"{name}.parquet").exists():
            table = parquet.read_table(data_dir / "cifar100" / f"{name}.parquet").slice(0, rows)
            parquet.write_table(table, folder / "cifar100" / f"{name.split('-')[0]}-00000-of-00001.parquet")
    return folder


def with_data(config: Config, words: list[str], data_dir: Path) -> list[str] | None:
    """The command `richkd check` with the files of ``data_dir``, or None if some of them do not exist."""
    replaced = [word.replace("DATA/", f"{data_dir}/") for word in words]
    files = [Path(word) for word in replaced if word.startswith(f"{data_dir}/")]
    unknown = (
        config.clip or any(teacher.pretrained for teacher in config.teachers) or config.student.pretrained
    )
    if unknown or any("TEACHERS/" in word or "photos/" in word for word in words):
        return None
    if not files or not all(file.exists() for file in files):
        return None
    return ["check", *replaced[2:], "--train.workers", "0"]


@pytest.mark.slow
@pytest.mark.parametrize("recipe", RECIPES, ids=lambda file: file.stem)
def test_recipes_whose_data_exist_pass_the_check(
    recipe: Path, some_data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(ROOT)
    words = command_of(recipe)
    config = check_richkd(words[1:])
    assert config is not None
    command = with_data(config, words, some_data)
    if command is None:
        pytest.skip("its data, its teacher or its CLIP are not in the folder of real data sets")
    app(command, exit_on_error=False, print_error=False, result_action="return_value")
    assert "dry step: " in capsys.readouterr().out
