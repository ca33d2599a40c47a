"""The demo replaces its own runs, and no others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from richkd.cli import main
from richkd.core.errors import CheckpointError
from richkd.demo import run as demo
from richkd.demo.run import STUDENTS, folder_of, run_demo
from tests.fixtures import refusal

FOLDERS = ("teacher", *map(folder_of, STUDENTS))


class Began(Exception):
    """The demo goes on to its first step."""


@pytest.fixture(autouse=True)
def _no_training(monkeypatch: pytest.MonkeyPatch) -> None:
    def begin(*arguments: Any, **options: Any) -> None:
        raise Began

    monkeypatch.setattr(demo, "write_digits", begin)


def make_run(folder: Path, config: str) -> Path:
    (folder / "student").mkdir(parents=True)
    (folder / "student" / "model.safetensors").write_text("precious")
    (folder / "config.yaml").write_text(config)
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}


@pytest.mark.parametrize("name", FOLDERS)
def test_a_run_of_the_user_is_not_replaced(name: str, tmp_path: Path, capsys: Any) -> None:
    folder = make_run(tmp_path / "runs" / name, "data: {path: photos}")
    before = contents(tmp_path)
    error = refusal(run_demo, tmp_path / "runs")
    assert isinstance(error, CheckpointError)
    assert str(folder) in error.rule
    assert error.got == "a run with the data photos"
    assert f"--out {tmp_path / 'runs' / 'demo'}" in str(error.fix)
    with pytest.raises(SystemExit) as ended:
        main(["demo", "--out", str(tmp_path / "runs")])
    assert ended.value.code == 1
    assert str(folder) in capsys.readouterr().err
    assert contents(tmp_path) == before


@pytest.mark.parametrize("config", ["", "data: [", "data: {}", "data: {path: 5}", "data: {path: null}", "[]"])
def test_a_run_whose_data_are_not_known_is_not_replaced(config: str, tmp_path: Path) -> None:
    make_run(tmp_path / "teacher", config)
    assert isinstance(refusal(run_demo, tmp_path), CheckpointError)
    (tmp_path / "teacher" / "config.yaml").unlink()
    assert "without a config.yaml" in str(refusal(run_demo, tmp_path).got)


def test_runs_of_an_earlier_demo_are_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "elsewhere").symlink_to("runs")
    make_run(tmp_path / "runs" / "demo" / "teacher", "data: {path: runs/demo/digits}")
    make_run(tmp_path / "runs" / "demo" / "richkd-l", f"data: {{path: {tmp_path}/runs/demo/digits}}")
    # A demo that was stopped before it wrote settings, and folders with other files.
    (tmp_path / "runs" / "demo" / "richkd-f" / "checkpoints").mkdir(parents=True)
    (tmp_path / "runs" / "demo" / "richkd-lf").mkdir()
    (tmp_path / "runs" / "demo" / "richkd-lf" / "notes.txt").write_text("")
    for out in ("runs/demo", tmp_path / "runs" / "demo", "elsewhere/demo", "new"):
        with pytest.raises(Began):
            run_demo(out)
