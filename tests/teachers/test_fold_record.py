"""The record of the full teacher: found again after a move, refused if its weights are others."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from richkd.core.checksums import SUMS
from richkd.core.errors import ModelError
from richkd.teachers.fold_record import RECORD, full_teacher
from tests.fixtures import make_teacher, refusal


def moved_apart(full_run: Path, repeated: Path, to: Path) -> tuple[Path, Path]:
    """Copies of both folders at places that they had relative to each other, and not as they were given."""
    run, folds = to / full_run.parent.name / full_run.name, to / repeated.parent.name / repeated.name
    shutil.copytree(full_run, run)
    shutil.copytree(repeated, folds)
    record = json.loads((folds / RECORD).read_text())
    (folds / RECORD).write_text(json.dumps(record | {"full": "gone"}))
    (folds / SUMS).unlink()
    return run, folds


def test_the_full_teacher_is_recorded_and_found(full_run: Path, repeated: Path) -> None:
    assert full_teacher(repeated) == full_run / "student"
    assert RECORD in (repeated / SUMS).read_text()


def test_folders_that_were_moved_together_are_found(full_run: Path, repeated: Path, tmp_path: Path) -> None:
    run, folds = moved_apart(full_run, repeated, tmp_path)
    assert full_teacher(folds) == run / "student"


def test_another_or_no_full_teacher_is_refused(full_run: Path, repeated: Path, tmp_path: Path) -> None:
    run, folds = moved_apart(full_run, repeated, tmp_path)
    make_teacher(run / "student", seed=8)
    error = refusal(full_teacher, folds)
    assert isinstance(error, ModelError)
    assert "must have the weights" in error.rule
    shutil.rmtree(run)
    assert "must exist" in refusal(full_teacher, folds).rule
    (folds / RECORD).unlink()
    assert full_teacher(folds) is None


def test_a_damaged_record_is_refused(repeated: Path, tmp_path: Path) -> None:
    shutil.copytree(repeated, tmp_path / "folds")
    record = tmp_path / "folds" / RECORD
    record.write_text(record.read_text() + " ")
    assert RECORD in refusal(full_teacher, tmp_path / "folds").rule
    (tmp_path / "folds" / SUMS).unlink()
    for content in ("[]", "{", "{}", '{"full": 1, "relative": "a", "sha256": "b"}'):
        record.write_text(content)
        assert "must name the full teacher" in refusal(full_teacher, tmp_path / "folds").rule
