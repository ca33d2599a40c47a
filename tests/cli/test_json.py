"""``--json``: one strict JSON document on standard output with the keys of the file, and nothing else."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from richkd.cli import app, main
from richkd.config.listing import settings
from tests.compare.plans import content as compare_content
from tests.compare.plans import write as write_plan
from tests.docs.blocks import ROOT
from tests.fixtures import CLASSES, World
from tests.tune.plans import content as tune_content

# Commands that print a table or figures, and those whose result is a folder, a page or a sentence.
WITH = (
    "benchmark",
    "check",
    "compare",
    "doctor",
    "evaluate",
    "export",
    "predict",
    "probe",
    "report",
    "settings",
    "tune",
)
WITHOUT = ("cache", "completion", "demo", "distill", "teach")
Capture = pytest.CaptureFixture[str]


def answer(capsys: Capture, *words: str, code: int = 0) -> tuple[Any, str]:
    """What a command prints as JSON, and what it says besides."""
    capsys.readouterr()
    ended: object = 0
    try:
        main([*words, "--json"])
    except SystemExit as end:
        ended = end.code or 0
    out, err = capsys.readouterr()
    assert ended == code, err
    return json.loads(out, parse_constant=pytest.fail), err


def file(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def options_of(name: str) -> set[str]:
    return {option for argument in app[name].assemble_argument_collection() for option in argument.names}


def test_every_command_that_prints_figures_has_the_option() -> None:
    names = {name for name in app if not name.startswith("-")}
    assert set(WITH) <= names
    assert all("--json" in options_of(name) for name in WITH)
    assert all(
        "--json" in {o for a in app["cache"][name].assemble_argument_collection() for o in a.names}
        for name in ("ls", "verify")
    )
    assert all("--json" not in options_of(name) for name in WITHOUT if name != "cache")


def test_every_command_with_the_option_is_documented() -> None:
    page = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
    section = page.partition("**`--json`**")[2].partition("- **Names are exact")[0]
    apps = {name: app[name] for name in app if not name.startswith("-") and name != "cache"}
    apps |= {f"cache {name}": app["cache"][name] for name in app["cache"] if not name.startswith("-")}
    for name, command in apps.items():
        options = {option for one in command.assemble_argument_collection() for option in one.names}
        assert ("--json" in options) == (f"`{name}`" in section or f"`{name} --json`" in section), name


def test_settings(capsys: Capture) -> None:
    listed, err = answer(capsys, "settings", "fusion.scale")
    expected = list(settings("fusion.scale"))
    assert err == ""
    assert [one["name"] for one in listed] == [one.name for one in expected]
    assert listed[0]["choices"] == [list(choice) for choice in expected[0].choices]
    assert set(listed[0]) == {"name", "default", "choices", "meaning"}


def test_check(world: World, tmp_path: Path, capsys: Capture) -> None:
    result, err = answer(capsys, "check", *world.options(tmp_path / "run", method__name="ce"))
    assert result["classes"] == list(CLASSES)
    assert result["images"] == {"train": 36, "val": 12, "test": 12}
    assert result["shared_with_train"] == {"val": [], "test": []}
    assert result["dry_step"]["ce"] > 0
    assert result["steps"] == 12
    assert "student" in {line["name"] for line in result["plan"]}
    # People still see it.
    assert "no image is in both train and test" in err


def test_check_names_shared_images(world: World, tmp_path: Path, capsys: Capture) -> None:
    shutil.copytree(world.images, tmp_path / "images")
    shutil.copy(tmp_path / "images/train/ant/0.png", tmp_path / "images/test/ant/copy.png")
    words = world.options(tmp_path / "run", method__name="ce", data__path=str(tmp_path / "images"))
    result, _ = answer(capsys, "check", *words)
    shared = [keys for keys in result["shared_with_train"].values() if keys]
    assert shared[0] in ([["test/ant/copy.png"]], [["ant/copy.png"]])


def test_probe_with_and_without_a_page(world: World, tmp_path: Path, capsys: Capture) -> None:
    words = ["probe", *world.options(tmp_path / "probe", train__epochs=None, method__name=None)]
    result, err = answer(capsys, *words)
    assert result == file(tmp_path / "probe" / "probe.json")
    assert "headline" in result["verdict"]
    assert "page: " in err
    place = words.index("--out")
    again, err = answer(capsys, *words[:place], *words[place + 2 :])
    assert again.keys() == result.keys()
    assert "page: " not in err


def test_report(world: World, full_run: Path, tmp_path: Path, capsys: Capture) -> None:
    result, err = answer(capsys, "report", str(full_run), "--out", str(tmp_path / "report"))
    assert result == file(tmp_path / "report" / "summary.json")
    assert "page: " in err


def test_evaluate(world: World, capsys: Capture) -> None:
    result, _ = answer(capsys, "evaluate", str(world.teacher), "--data", str(world.images))
    assert isinstance(result, dict)


@pytest.mark.slow
def test_compare_and_its_failures(world: World, tmp_path: Path, capsys: Capture) -> None:
    base = compare_content(world)["base"]
    del base["clip"]
    methods = {"kd": None, "wild": {"method": "kd", "optim.lr": 1e30}}
    path = write_plan(tmp_path, compare_content(world, base=base, methods=methods, seeds=[0]))
    out = tmp_path / "out"
    result, err = answer(capsys, "compare", str(path), "--out", str(out), "--jobs", "1", code=1)
    assert result == file(out / "compare.json")
    assert "[1/2] kd-e1-s0: test top-1" in err


@pytest.mark.slow
def test_tune(world: World, tmp_path: Path, capsys: Capture) -> None:
    base = tune_content(world)["base"]
    del base["clip"]
    space = {"objective.kd.temperature": [1, 4]}
    plan = tune_content(world, base=base, methods={"kd": None}, space=space, budget={"epochs": 5}, epochs=2)
    result, _ = answer(capsys, "tune", str(write_plan(tmp_path, plan)), "--out", str(tmp_path / "out"))
    assert result == file(tmp_path / "out" / "tune.json")


@pytest.mark.parametrize("name", ["compare", "tune"])
def test_a_check_has_no_figures(world: World, tmp_path: Path, capsys: Capture, name: str) -> None:
    with pytest.raises(SystemExit) as ended:
        main([name, "plan.yaml", "--check", "--json"])
    assert ended.value.code == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert "--check" in err


def test_caches(world: World, tmp_path: Path, capsys: Capture) -> None:
    cache = tmp_path / "cache"
    changes = {"method__name": "kd", "train__epochs": 1, "cache__dir": str(cache)}
    words = world.options(tmp_path / "run", **changes)
    main_quietly(["cache", "fill", *words])
    listed, err = answer(capsys, "cache", "ls", str(cache))
    assert err == ""
    assert {one["cache"] for one in listed} == {folder.name for folder in cache.iterdir() if folder.is_dir()}
    train = next(one for one in listed if "-train-" in one["cache"])
    assert (train["outputs"], train["row"]["classes"]) == (32, len(CLASSES))
    assert 0 < train["bytes"] < 1_000_000
    result, err = answer(capsys, "cache", "verify", str(cache), *words)
    assert set(result["damaged"]) == {one["cache"] for one in listed}
    assert not any(result["damaged"].values())
    assert all(one["agreement"] == 1 for one in result["computed_again"])
    assert "every shard is intact" in err
    shard = next((cache / train["cache"]).glob("*.safetensors"))
    shard.write_bytes(shard.read_bytes()[:-1] + b"\xff")
    result, err = answer(capsys, "cache", "verify", str(cache), code=1)
    assert len(result["damaged"][train["cache"]]) == 1
    assert "must be intact" in err


def main_quietly(words: list[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert not ended.value.code
