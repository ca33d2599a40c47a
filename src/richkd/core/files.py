"""Write files atomically, and hash tensors."""

from __future__ import annotations

import errno
import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from richkd.core.errors import CheckpointError, ConfigError
from richkd.core.presence import exists, is_file, stat_error
from richkd.core.regular_files import kind_of
from richkd.core.temporary import temporary_file

if TYPE_CHECKING:
    from torch import Tensor


# Suffix of the checkpoints of a run.
CHECKPOINT = ".ckpt"


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file atomically: after a crash it has either the complete old or the complete new content.

    The content is written to a temporary file in the same folder, flushed to the disk, and renamed. Missing
    folders are created. What a killed process leaves is removed by
    `richkd.core.temporary.remove_abandoned`.

    Raises:
        CheckpointError: the file cannot be written, for example because the disk is full, or the path is a
            folder, pipe or device.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_atomically(Path(folder) / "runs" / "a.bin", b"123")
        ...     (Path(folder) / "runs" / "a.bin").read_bytes()
        b'123'
    """
    kind = kind_of(path)
    if kind is not None:
        # Renaming would remove a device such as /dev/null, and put a file into its place.
        raise not_written(path, len(content), OSError(errno.EINVAL, f"{kind}, no regular file"))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary_file(path) as temporary:
            with temporary.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        raise not_written(path, len(content), error) from error


def refuse_no_file(path: Path, example: str, option: str = "--out") -> None:
    """Check before a long computation that a file can be written.

    Args:
        path: the file, which need not exist.
        example: a name of such a file, for the message.
        option: the option that names it.

    Raises:
        ConfigError: the path is a folder, a pipe or a device.
        CheckpointError: its folder cannot be written (see `refuse_unwritable`), or its name is too long.

    Example:
        >>> try:
        ...     refuse_no_file(Path(__file__).parent, "predictions.csv")
        ... except ConfigError as error:
        ...     error.got
        'a folder'
    """
    kind = kind_of(path)
    if kind is not None:
        name = path / example if path.is_dir() else example
        raise ConfigError(
            f"{option} {path} must be a file", got=kind, fix=f"give a file name, such as {name}."
        )
    refuse_unwritable(path.parent, option)
    if (got := stat_error(path)) is not None:
        raise CheckpointError(f"{option} {path} cannot be written", got=got, fix=f"choose another {option}.")


def refuse_unwritable(folder: Path, option: str = "--out") -> None:
    """Check before a long computation that a folder can be created and written.

    Args:
        folder: the folder, which need not exist.
        option: the option that names it.

    Raises:
        CheckpointError: the folder or the next existing one above it is a file, or may not be written.

    Example:
        >>> try:
        ...     refuse_unwritable(Path(__file__) / "run")
        ... except CheckpointError as error:
        ...     error.got.partition(" is ")[2]
        'not a folder with write permission'
    """
    try:
        place = next(one for one in (folder, *folder.absolute().parents) if one.exists())
        got = f"{place} is not a folder with write permission"
        writable = place.is_dir() and os.access(place, os.W_OK | os.X_OK)
    except OSError as error:
        got, writable = error.strerror or str(error), False
    if not writable:
        raise CheckpointError(
            f"{option} {folder} cannot be written", got=got, fix=f"choose another {option}."
        )


def hash_tensors(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 (hexadecimal) of the names, dtypes, shapes and values of tensors.

    The result does not depend on the device of a tensor or on the order of the mapping.

    Example:
        >>> import torch
        >>> a, b = torch.zeros(2), torch.ones(3)
        >>> hash_tensors({"a": a, "b": b}) == hash_tensors({"b": b, "a": a})
        True
        >>> hash_tensors({"a": a}) == hash_tensors({"a": a.double()})
        False
    """
    # Settings are read through this module, and the command line must not wait for torch.
    import torch

    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def not_written(path: Path, size: int, error: OSError) -> CheckpointError:
    """The error to raise when a file of ``size`` bytes cannot be written; contains the reason of the system.

    For a checkpoint, it says that the run can be resumed.

    Example:
        >>> print(not_written(Path("last.ckpt"), 2000, OSError(28, "No space left on device")).got)
        No space left on device
    """
    got = error.strerror or str(error)
    if error.errno in (0, errno.EINVAL) and kind_of(path) is not None:
        return CheckpointError(f"{path} must be a file", got=got, fix="give another name.")
    rule = f"{path} could not be written ({size:,} bytes)"
    place = next((one for one in (path, *path.parents) if exists(one)), path)
    if error.errno in (errno.EEXIST, errno.ENOTDIR) and is_file(place):
        return CheckpointError(rule, got=f"{place} is a file, no folder", fix="choose another folder.")
    if error.errno == errno.ENAMETOOLONG:
        return CheckpointError(rule, got=got, fix="give a shorter name.")
    fix = "free space or choose another folder"
    # Only a run has checkpoints; a page or a list of predictions is simply written again.
    if path.suffix == CHECKPOINT:
        fix += "; earlier checkpoints are intact and --resume can use them"
    return CheckpointError(rule, got=got, fix=f"{fix}.")
