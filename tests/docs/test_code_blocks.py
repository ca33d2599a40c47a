"""Every code block of the documentation works with the current code.

- ``python``: executed, in the order of the document, in a folder with a small data set.
- ``bash``: every command is parsed as the program parses it, up to the call of the library.
- ``yaml``: loaded as settings.
- ``diff``: applied to a copy of the source tree (worked examples of CONTRIBUTING.md only).
- ``text``: diagrams and file trees; nothing to check.

Code blocks with any other label, or without one, are an error, so none is skipped by mistake.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from richkd.cli import app
from richkd.config.listing import settings
from richkd.config.loading import load_config
from richkd.config.names import setting_names
from richkd.methods.objective import read_objective
from tests.docs.blocks import CONTRIBUTING, DOCUMENTS, README, ROOT, Block, blocks_of, prose_of
from tests.docs.commands import check, check_richkd, check_run, commands_of
from tests.docs.folder import make_working_folder
from tests.fixtures import make_images

LANGUAGES = ("bash", "python", "yaml", "diff", "text")
BLOCKS = [block for document in DOCUMENTS for block in blocks_of(document)]
# The worked examples of CONTRIBUTING.md are run by test_contributing.py.
PYTHON = [file for file in DOCUMENTS if file != CONTRIBUTING]
RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))
SPAN = re.compile(r"`([^`]+)`")
SETTING = re.compile(
    r"(?:data|student|teachers|clip|cache|augment|fusion|method|objective|optim|train)\.[a-z0-9][\w.-]*"
)
OPTION = re.compile(r"--([a-z][\w.-]*)")
LAUNCHER = re.compile(r"(?:accelerate launch|torchrun)(?:(?!-m richkd).)*")
LINK = re.compile(r"\]\(([^)#]+)[^)]*\)")
FILE = re.compile(r"[\w.-]+(?:/[\w.-]+)+/?")


def blocks(language: str) -> list[Block]:
    return [block for block in BLOCKS if block.language == language]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder in which the names of the documentation exist."""
    folder = tmp_path_factory.mktemp("docs")
    make_working_folder(folder)
    return folder


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda file: file.stem)
def test_labels_are_known_and_no_code_is_unlabeled(document: Path) -> None:
    assert [block.place for block in blocks_of(document) if block.language not in LANGUAGES] == []
    # Four spaces after an empty line are a code block, too.
    prose = dict(prose_of(document))
    indented = [
        n for n, line in prose.items() if line.startswith("    ") and not prose.get(n - 1, "x").strip()
    ]
    assert indented == [], "indented code: use a fence with a label"


@pytest.mark.parametrize("block", blocks("bash"), ids=lambda block: block.place)
def test_commands_are_accepted(block: Block, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    for words in commands_of(block.text):
        # Commands of the worked examples need their new modules; test_contributing.py runs them.
        if block.file != CONTRIBUTING or words[0] != "richkd":
            check(words)


@pytest.mark.slow
@pytest.mark.parametrize("document", PYTHON, ids=lambda file: file.stem)
def test_python_blocks_run(document: Path, folder: Path) -> None:
    blocks = blocks_of(document)
    assert [block.place for block in blocks if block.language == "diff"] == [], (
        f"move it to {CONTRIBUTING.name}"
    )
    # A block may train the run of recipe.yaml, whose folder must then be free.
    free = "__import__('shutil').rmtree('runs/small', ignore_errors=True)\n"
    script = "".join(free + block.text + "\n" for block in blocks if block.language == "python")
    # A new process has imported nothing before the first block.
    done = subprocess.run([sys.executable, "-c", script], cwd=folder, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("block", blocks("yaml"), ids=lambda block: block.place)
def test_yaml_blocks_are_settings(block: Block, tmp_path: Path) -> None:
    if block.file != CONTRIBUTING:
        check_recipe(block.text, tmp_path)


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda file: file.stem)
def test_recipes_and_the_commands_in_their_heads(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = recipe.read_text(encoding="utf-8")
    check_recipe(text, tmp_path)
    monkeypatch.chdir(ROOT)
    commands = [words for words in commands_of(command_lines(head_of(recipe))) if words[0] == "richkd"]
    assert commands
    for words in commands:
        config = check_richkd(words[1:])
        assert config is not None
        assert config.student == load_config(recipe).student


def check_recipe(text: str, folder: Path) -> None:
    """Load settings; data and student are supplied where they are missing."""
    missing = {"data": {"path": "photos"}, "student": {"name": "resnet18"}}
    file = folder / "recipe.yaml"
    file.write_text(yaml.safe_dump(missing | yaml.safe_load(text)), encoding="utf-8")
    config = load_config(file)
    if config.teachers or config.clip:
        check_run(config)
    else:
        read_objective(config)


def head_of(recipe: Path) -> str:
    """The comment of a recipe, without its marks."""
    lines = recipe.read_text(encoding="utf-8").splitlines()
    return "\n".join(line.removeprefix("#").strip() for line in lines if line.startswith("#"))


def command_lines(head: str) -> str:
    """The commands in the comment of a recipe: lines from ``richkd`` on, as long as they are continued."""
    lines, continued = [], False
    for line in head.splitlines():
        if continued or line.startswith("richkd "):
            lines.append(line)
            continued = line.endswith("\\")
    return "\n".join(lines)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda file: file.stem)
def test_options_and_settings_in_the_text_exist(document: Path) -> None:
    options, names = known_options(), set(known_settings())
    for number, span in spans(document):
        # Options before `-m richkd` are those of the launcher of several processes.
        arguments = "" if LAUNCHER.fullmatch(span) else span.rpartition("-m richkd")[2]
        for option in OPTION.findall(arguments):
            known = option in options or option.replace("-", "_") in names or option in names
            assert known, f"{document.name}:{number}: there is no option --{option}"
        for setting in SETTING.findall(span) if SETTING.match(span) else ():
            assert setting.rstrip(".") in names, f"{document.name}:{number}: there is no setting {setting}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda file: file.stem)
def test_files_in_the_text_and_targets_of_links_exist(document: Path) -> None:
    for number, line in prose_of(document):
        for target in LINK.findall(line):
            assert ":" in target or (document.parent / target).exists(), f"{document.name}:{number}: {target}"
    for number, span in spans(document):
        if FILE.fullmatch(span) and span.split("/")[0] in (
            *PLACES,
            "src",
            "docs",
            "tests",
            "recipes",
            "benchmarks",
        ):
            exists = (ROOT / span).exists() or (ROOT / "src" / "richkd" / span).exists()
            assert exists, f"{document.name}:{number}: {span} does not exist"


PLACES = tuple(path.name for path in (ROOT / "src" / "richkd").iterdir() if path.is_dir())


def spans(document: Path) -> Iterator[tuple[int, str]]:
    """Inline code with its line number."""
    for number, line in prose_of(document):
        yield from ((number, span) for span in SPAN.findall(line))


def known_options() -> set[str]:
    """All options of all commands, without the dashes."""
    commands = [app[name] for name in app if not name.startswith("-")]
    commands += [app["cache"][name] for name in app["cache"] if not name.startswith("-")]
    # Options of other programs, and the placeholder for a setting.
    options = {"help", "version", "logdir", "num_processes", "section.name"}
    for command in commands:
        if command.default_command is not None:
            for argument in command.assemble_argument_collection():
                options |= {name.removeprefix("--") for name in argument.names}
    return options


def known_settings() -> Iterator[str]:
    yield from setting_names()
    yield from (setting.name for setting in settings("objective"))
    teacher = ("name", "weights", "pretrained", "size", "mean", "std", "fold_share")
    yield from (f"teachers.1.{name}" for name in teacher)


# The quick start with models and images that are small enough for a test.
TINY_CLIP = f"local-dir:{ROOT / 'src' / 'richkd' / 'demo' / 'tiny_clip'}"
SMALLER = {
    "resnet50": "cifar_resnet14",
    "--student.pretrained true": "--student.size 16",
    "--epochs 20": "--epochs 1",
    "mobilenetv3_small_100": "cifar_resnet8",
    "--student.size 128": "--student.size 16",
    "ViT-B-32:datacomp_xl_s13b_b90k": TINY_CLIP,
}
SHORT = ["--train.batch_size", "8", "--train.workers", "0", "--train.precision", "fp32"]
CACHE = ["--clip.cache", "class-embeddings"]
# Student and CLIP of the recipe.
SMALL_RECIPE = ["--student", "cifar_resnet8", "--student.size", "16", "--student.pretrained", "false"]
MORE = {
    "teach": SHORT,
    "probe": CACHE,
    "distill": [*SHORT, "--epochs", "1", *CACHE, *SMALL_RECIPE, "--clip", TINY_CLIP],
}
# The tiny CLIP knows digits.
DIGITS = ("one", "two", "three")


@pytest.mark.slow
def test_the_quick_start_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (block,) = (block for block in blocks_of(README) if block.text.count("richkd ") > 1)
    text = block.text
    for word, smaller in SMALLER.items():
        assert word in text, f"{block.place}: the quick start has no {word}"
        text = text.replace(word, smaller)
    make_images(tmp_path / "photos", DIGITS)
    make_images(tmp_path / "photos-at-night", DIGITS, seed=1)
    shutil.copy(tmp_path / "photos" / "test" / "one" / "0.png", tmp_path / "holiday.jpg")
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    monkeypatch.chdir(tmp_path)
    commands = list(commands_of(text))
    assert [words[1] for words in commands] == ["teach", "probe", "distill", "report", "predict", "export"]
    for words in commands:
        app(
            words[1:] + MORE.get(words[1], []),
            exit_on_error=False,
            print_error=False,
            result_action="return_value",
        )
    assert (tmp_path / "runs" / "probe" / "probe.html").is_file()
    assert (tmp_path / "runs" / "small" / "report" / "report.html").is_file()
