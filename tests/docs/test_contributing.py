"""The worked examples of CONTRIBUTING.md, carried out in a copy of the source tree.

Files are written to the places that their first lines name, diffs are applied, the tests of the examples are
run, and then the commands and the Python blocks in their order.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.blocks import CONTRIBUTING, ROOT, Block, blocks_of
from tests.docs.commands import commands_of
from tests.docs.folder import make_working_folder
from tests.fixtures import one_thread

pytestmark = pytest.mark.slow

HEAD = ("# src/", "# tests/")
STEPS = """
import json
from pathlib import Path

import pytest

from richkd.cli import app
from richkd.config.loading import load_config
from richkd.methods.objective import read_objective

FOLDER, STEPS = json.loads(Path(__file__).with_name("steps.json").read_text())


@pytest.mark.parametrize("step", STEPS, ids=lambda step: step["place"])
def test_step(step, monkeypatch, tmp_path):
    monkeypatch.chdir(FOLDER)
    if "command" in step:
        app(step["command"], exit_on_error=False, print_error=False, result_action="return_value")
    elif "python" in step:
        exec(step["python"], {})
    else:
        (tmp_path / "recipe.yaml").write_text(step["yaml"])
        names = {"data.path": "photos", "student.name": "cifar_resnet8"}
        assert read_objective(load_config(tmp_path / "recipe.yaml", names))
"""


def test_the_worked_examples(tmp_path: Path) -> None:
    folder, copy = tmp_path / "work", tmp_path / "copy"
    folder.mkdir()
    make_working_folder(folder)
    copy_sources(copy)
    steps = [step for block in blocks_of(CONTRIBUTING) for step in carry_out(block, copy)]
    assert {"command", "python", "yaml"} <= {key for step in steps for key in step}
    (copy / "tests" / "test_steps.py").write_text(STEPS, encoding="utf-8")
    (copy / "tests" / "steps.json").write_text(json.dumps([str(folder), steps]), encoding="utf-8")
    files = new_files(copy)
    assert len(files) >= 10
    for words in (("ruff", "format", "--check", "-q"), ("ruff", "check", "-q")):
        call(["-m", *words, *files], copy)
    sources = [file for file in files if file.startswith("src/")]
    call(["-m", "pytest", "-q", "-p", "no:cacheprovider", "--doctest-modules", "tests", *sources], copy)


def copy_sources(copy: Path) -> None:
    """The package, and what tests need besides their own files."""
    ignore = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "src", copy / "src", ignore=ignore)
    shutil.copy(ROOT / "pyproject.toml", copy)
    (copy / "tests").mkdir()
    for name in ("__init__.py", "conftest.py", "fixtures.py"):
        shutil.copy(ROOT / "tests" / name, copy / "tests")


def carry_out(block: Block, copy: Path) -> list[dict[str, object]]:
    """Write the files of a block into the copy; returns the steps that are to be run afterwards."""
    place: dict[str, object] = {"place": block.place}
    if block.language == "diff":
        apply(block, copy)
    elif block.language == "python" and block.text.startswith(HEAD):
        first, _, text = block.text.partition("\n")
        file = copy / first.removeprefix("# ")
        assert not file.exists(), f"{block.place}: {file.name} exists already; use a diff"
        if "tests" in file.relative_to(copy).parts:
            for parent in (file.parent, *file.parent.parents):
                if parent.is_relative_to(copy / "tests"):
                    parent.mkdir(parents=True, exist_ok=True)
                    (parent / "__init__.py").touch()
        file.write_text(text, encoding="utf-8")
    elif block.language == "python":
        return [place | {"python": block.text}]
    elif block.language == "yaml":
        return [place | {"yaml": block.text}]
    elif block.language == "bash":
        commands = [words[1:] for words in commands_of(block.text) if words[0] == "richkd"]
        return [place | {"command": words} for words in commands]
    return []


def apply(block: Block, copy: Path) -> None:
    """Apply a unified diff whose hunks are found by their lines, not by numbers."""
    for header, hunks in files_of_diff(block.text):
        file = copy / header
        text = file.read_text(encoding="utf-8")
        for hunk in hunks:
            before = "".join(f"{line[1:]}\n" for line in hunk if line[:1] in (" ", "-"))
            after = "".join(f"{line[1:]}\n" for line in hunk if line[:1] in (" ", "+"))
            assert text.count(before) == 1, (
                f"{block.place}: these lines are not unique in {header}:\n{before}"
            )
            text = text.replace(before, after)
        file.write_text(text, encoding="utf-8")


def files_of_diff(text: str) -> list[tuple[str, list[list[str]]]]:
    """Each file of a diff with its hunks."""
    result: list[tuple[str, list[list[str]]]] = []
    for line in text.splitlines():
        if line.startswith("--- "):
            continue
        if line.startswith("+++ b/"):
            result.append((line.removeprefix("+++ b/"), []))
        elif line.startswith("@@"):
            result[-1][1].append([])
        else:
            result[-1][1][-1].append(line)
    return result


def new_files(copy: Path) -> list[str]:
    """Files of the copy that the package does not have, or that differ from it."""
    files = [
        file.relative_to(copy)
        for name in ("src", "tests")
        for file in (copy / name).rglob("*.py")
        if file.name not in ("__init__.py", "test_steps.py")
    ]
    return [
        str(file)
        for file in sorted(files)
        if not (ROOT / file).exists() or (ROOT / file).read_bytes() != (copy / file).read_bytes()
    ]


def call(arguments: list[str], copy: Path) -> None:
    """Run Python in the copy, which then hides the installed package."""
    environment = {**one_thread(), "PYTHONPATH": os.pathsep.join([str(copy / "src"), str(copy)])}
    result = subprocess.run(
        [sys.executable, *arguments], cwd=copy, env=environment, capture_output=True, text=True, timeout=600
    )
    if result.returncode:
        pytest.fail(f"{' '.join(arguments[:4])} failed:\n{result.stdout[-6000:]}\n{result.stderr[-2000:]}")
