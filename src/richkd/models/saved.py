"""The files of a saved student, and whether they are still as they were saved."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import timm
from safetensors import SafetensorError

from richkd.core.checksums import SUMS, check_hashes
from richkd.core.errors import ModelError
from richkd.core.presence import is_dir, is_file, stat_error
from richkd.core.structured import read_json
from richkd.core.tensor_files import read_tensors

WEIGHTS, CONFIG, CARD = "model.safetensors", "config.json", "README.md"

logger = logging.getLogger(__name__)


def saved_folder(folder: Path) -> Path:
    """The folder with the files of a student: the folder itself, or ``student/`` in the folder of a run.

    Raises:
        ModelError: a file is missing, or cannot be looked at.

    Example:
        >>> try:
        ...     saved_folder(Path("no-such-run"))
        ... except ModelError as error:
        ...     error.got
        'no such folder'
    """
    if is_file(folder / "student" / CONFIG):
        folder = folder / "student"
    missing = [name for name in (CONFIG, WEIGHTS) if not is_file(folder / name)]
    if missing:
        raise _no_student(folder, missing)
    return folder


def _no_student(folder: Path, missing: Sequence[str]) -> ModelError:
    """The error to raise for a path without the files of a student."""
    fix = "pass the folder of a finished run, or the folder student/ in it."
    if (reason := stat_error(folder / "student" / CONFIG) or stat_error(folder / CONFIG)) is not None:
        got, fix = reason, f"check the path and its permissions, or {fix}"
    elif is_dir(folder):
        got = f"no {' and no '.join(missing)}"
    elif is_file(folder):
        got = "a file, no folder"
        fix = f"pass its folder, {folder.parent}."
        if folder.name not in (CONFIG, WEIGHTS):
            fix = "pass the folder of a finished run; the model comes before the images: "
            fix += "richkd predict MODEL IMAGE …"
    else:
        got = "no such folder"
        if len(folder.parts) == 1 and timm.is_model(str(folder)):
            fix = (
                f"pass the folder of a finished run; for the network {folder} itself, add --weights FILE to "
            )
            fix += "`richkd evaluate`."
    return ModelError(f"{folder} must be a student's folder with {CONFIG} and {WEIGHTS}", got=got, fix=fix)


def check_saved(folder: Path) -> None:
    """Check the files of a student's folder against its ``SHA256SUMS``.

    Folders of other programs have no ``SHA256SUMS`` and are not checked. If it was removed from a folder of
    this package, to accept a changed ``config.json``, there is a warning, and the weights are checked against
    the hash in their header. A changed ``README.md`` is a warning, because nothing is computed from it.

    Raises:
        ModelError: a file is not as it was saved; the message names it.

    Example:
        >>> import tempfile
        >>> from richkd.core.checksums import write_hashes
        >>> with tempfile.TemporaryDirectory() as name:
        ...     write_hashes(Path(name), {CONFIG: b"{}"})
        ...     size = (Path(name) / CONFIG).write_text("[]")
        ...     try:
        ...         check_saved(Path(name))
        ...     except ModelError as error:
        ...         print(error.rule.removeprefix(name))
        /config.json must be as it was written
    """
    fix = f"copy the folder or train again; to accept a change that you made, remove {folder / SUMS}."
    if check_hashes(folder, (CONFIG, WEIGHTS), ModelError, fix):
        try:
            check_hashes(folder, (CARD,), ModelError, fix)
        except ModelError as error:
            logger.warning("warning: %s: %s. The student itself is intact.", error.rule, error.got)
        return
    if not _is_ours(folder):
        return
    logger.warning("warning: %s has no %s, so %s is not checked", folder, SUMS, CONFIG)
    try:
        read_tensors(folder / WEIGHTS)
    except (OSError, SafetensorError):
        return  # the reader of the weights has the better message


def _is_ours(folder: Path) -> bool:
    try:
        return "richkd" in read_json(folder / CONFIG)
    except (OSError, ValueError, TypeError):
        return False
