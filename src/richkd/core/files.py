"""Files that are whole whatever happens while they are written, and hashes of tensors."""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from richkd.core.errors import CheckpointError


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that its old or its new content is there whole, whatever happens meanwhile.

    Raises:
        CheckpointError: naming the path, its size in bytes and the system's reason (no space, not writable).
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
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
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise not_written(path, len(content), error) from error


def hash_tensors(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of tensors with their names, types and shapes, whatever device they are on."""
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def not_written(path: Path, size: int, error: OSError) -> CheckpointError:
    return CheckpointError(
        f"{path} could not be written ({size:,} bytes)",
        got=error.strerror or str(error),
        fix="free space or choose another folder; what was saved before is intact, and --resume uses it.",
    )
