"""The full teacher that the teachers of folds repeat: a record in their folder (``folds.json``)."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from richkd.core.checksums import SUMS, check_hashes, hash_file
from richkd.core.errors import ModelError
from richkd.core.structured import read_json
from richkd.models.saved import WEIGHTS

RECORD = "folds.json"


def record_of(run: Path, folder: Path) -> dict[str, str]:
    """The record of a full teacher, for the folder of its folds.

    Args:
        run: the run folder of the full teacher.
        folder: the folder of the folds.

    Returns:
        The path as it was given, the path relative to ``folder``, and the SHA-256 of the weights.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as name:
        ...     run = Path(name, "teacher")
        ...     (run / "student").mkdir(parents=True)
        ...     (run / "student" / WEIGHTS).touch()
        ...     record = record_of(run, Path(name, "folds"))
        >>> record["relative"], record["sha256"][:8]
        ('../teacher', 'e3b0c442')
    """
    relative = os.path.relpath(run, folder)
    return {"full": str(run), "relative": relative, "sha256": hash_file(run / "student" / WEIGHTS)}


def full_teacher(folder: Path) -> Path | None:
    """The student's folder of the full teacher that was recorded; None without a record.

    The run may have been moved together with the folder of the folds.

    Raises:
        ModelError: the record is damaged, or the full teacher is gone or has other weights.

    Example:
        >>> full_teacher(Path("nowhere")) is None
        True
    """
    path = folder / RECORD
    if not path.exists():
        return None
    record = _read(path)
    places = [
        Path(record["full"]) / "student",
        Path(os.path.normpath(folder / record["relative"])) / "student",
    ]
    student = next((place for place in places if (place / WEIGHTS).is_file()), None)
    fix = f"restore it, or remove {path} to use the mean of the other networks of folds instead."
    if student is None:
        raise ModelError(
            f"The full teacher that {path} names must exist",
            got=f"no {WEIGHTS} in {' or in '.join(dict.fromkeys(map(str, places)))}",
            fix=fix,
        )
    digest = hash_file(student / WEIGHTS)
    if digest != record["sha256"]:
        raise ModelError(
            f"The full teacher in {student} must have the weights with which {path} was written",
            got=f"weights whose SHA-256 was {record['sha256'][:12]}, now {digest[:12]}",
            fix=fix,
        )
    return student


def _read(path: Path) -> dict[str, str]:
    fix = (
        f"train the teachers again with `richkd teach --from RUN`, or remove {path} and {path.parent / SUMS}."
    )
    check_hashes(path.parent, (path.name,), ModelError, fix)
    try:
        record: Any = read_json(path)
        names = ("full", "relative", "sha256")
        if all(isinstance(record[name], str) for name in names):
            return {name: record[name] for name in names}
        got = "other values than texts"
    except (OSError, ValueError, LookupError, TypeError) as error:
        got = f"{type(error).__name__}: {error}"
    raise ModelError(f"{path} must name the full teacher of the folds", got=got, fix=fix)
