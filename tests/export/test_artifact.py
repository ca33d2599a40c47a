"""An artifact that cannot be looked at, or whose name is too long."""

from __future__ import annotations

from pathlib import Path

import pytest

from richkd.core.errors import CheckpointError, ModelError
from richkd.export.artifact import load_artifact, open_classifier
from richkd.export.run import ExportSettings, export_student
from tests.core.closed import LONG, close
from tests.fixtures import refusal


def test_what_cannot_be_looked_at_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = tmp_path / "closed" / "small.onnx"
    small.parent.mkdir()
    small.write_text("")
    close(monkeypatch, small.parent)
    for open_it in (load_artifact, open_classifier):
        for path, reason in ((f"{LONG}.onnx", "File name too long"), (str(small), "Permission denied")):
            error = refusal(open_it, path)
            assert isinstance(error, ModelError)
            assert (error.rule, error.got) == (f"The artifact {path} must exist", reason)


def test_a_name_that_is_too_long_is_refused_before_the_student_is_read(tmp_path: Path) -> None:
    out = tmp_path / f"{LONG}.onnx"
    error = refusal(export_student, "no-such-run", ExportSettings("onnx", out))
    assert isinstance(error, CheckpointError)
    assert (error.rule, error.got) == (f"--out {out} cannot be written", "File name too long")
    assert list(tmp_path.iterdir()) == []
