"""What commands import: nothing large for help, and nothing that a run does not use."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from richkd.cli import app
from tests.fixtures import World, one_thread

LARGE = (
    "torch",
    "torchvision",
    "timm",
    "datasets",
    "pandas",
    "pyarrow",
    "transformers",
    "open_clip",
    "optuna",
    "matplotlib",
    "sklearn",
    "tensorboard",
    "accelerate",
    "huggingface_hub",
    "numpy",
    "PIL",
    "jinja2",
)
# `cache` has commands of its own; the others are flags.
COMMANDS = sorted(name for name in app if not name.startswith("-"))
CACHE = ("fill", "import", "ls", "verify", "rm")


def imported(script: str) -> set[str]:
    """The large libraries that a new process has imported at the end of a script."""
    script += f"\nimport json, sys\nprint('\\n' + json.dumps(sorted(set({LARGE}) & set(sys.modules))))"
    result = subprocess.run(
        [sys.executable, "-c", script], env=one_thread(), capture_output=True, text=True, timeout=300
    )
    assert result.returncode == 0, result.stderr
    return set(json.loads(result.stdout.splitlines()[-1]))


def commands(*lines: list[str]) -> str:
    """A script that calls the command line several times; each call must succeed."""
    return (
        "from richkd.cli import main\n"
        f"for words in {list(lines)}:\n"
        "    try: main(words)\n"
        "    except SystemExit as ended: assert not ended.code, words\n"
    )


def test_the_package_and_its_settings_import_nothing_large() -> None:
    assert imported("import richkd; assert richkd.Config.__name__ == 'Config'") == set()


def test_help_and_version_import_nothing_large() -> None:
    helps = [[name, "--help"] for name in COMMANDS] + [["cache", name, "--help"] for name in CACHE]
    assert len(helps) > 12
    assert imported(commands(["--help"], ["--version"], [], *helps)) == set()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["torch", "timm"])
def test_large_libraries_are_found_if_they_are_imported(name: str) -> None:
    assert name in imported(f"import {name}")


@pytest.mark.slow
def test_a_run_imports_no_library_that_it_does_not_use(world: World, tmp_path: Path) -> None:
    words = world.options(tmp_path / "run", method__name="ce", train__epochs=1, train__trackers="[]")
    expected = {"torch", "torchvision", "timm", "datasets", "pandas", "pyarrow", "accelerate"}
    # The card of the student is a template, and its head is made by the hub's library.
    expected |= {"huggingface_hub", "jinja2", "numpy", "PIL"}
    script = commands(["distill", *words])
    # What was imported is not searched for garbage, which would take a second of the run and one of its end.
    script += "import gc\nassert gc.isenabled() and gc.get_freeze_count() > 100_000, gc.get_freeze_count()"
    assert imported(script) == expected


def test_versions_are_printed_for_bug_reports(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        app(["--version"])
    assert not ended.value.code
    lines = dict(line.split(" ", 1) for line in capsys.readouterr().out.splitlines())
    names = ["richkd", "Python", "torch", "torchvision", "timm", "open_clip_torch", "accelerate"]
    assert list(lines) == names
    assert lines["Python"] == sys.version.split()[0]
    torch = subprocess.run(
        [sys.executable, "-c", "import torch; print(torch.__version__)"],
        env=one_thread(),
        capture_output=True,
        text=True,
        timeout=300,
    )
    # The build, such as +cpu, is part of the version that torch itself knows.
    assert torch.stdout.strip().split("+")[0] == lines["torch"].split("+")[0]
