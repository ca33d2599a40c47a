"""The data of a run, asked for by paths that cannot be looked at."""

from __future__ import annotations

from pathlib import Path

import pytest

from richkd.core.errors import DataError
from richkd.export.own_data import as_trained, data_of, run_of
from tests.core.closed import LONG, close
from tests.fixtures import refusal


def test_a_folder_that_cannot_be_looked_at_is_no_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tmp_path / "closed" / "run"
    run.mkdir(parents=True)
    (run / "config.yaml").write_text("")
    close(monkeypatch, run.parent)
    for model in (run, Path(LONG)):
        assert run_of(model) == model
        assert as_trained(model, "photos")[0].path == "photos"
        assert isinstance(refusal(data_of, str(model)), DataError)


def test_data_that_are_a_link_to_itself_are_not_those_of_the_run(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "config.yaml").write_text("data: {path: photos}\nstudent: {name: resnet18}")
    assert as_trained(tmp_path, str(tmp_path / "loop"))[1] == 0
