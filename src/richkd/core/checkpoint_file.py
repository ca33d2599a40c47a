"""What a checkpoint is, and how its file is read. `richkd.training.checkpoint` writes and restores them.

A checkpoint is one file. Its first line is the SHA-256 of the rest, which is a safetensors payload with the
scalars as JSON in its header.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from richkd.core.errors import CheckpointError
from richkd.core.finite import non_finite
from richkd.core.regular_files import read_regular
from richkd.core.structured import parse_json

MAGIC = b"richkd-checkpoint-1 "
HEADER_BYTES = len(MAGIC) + 64 + 1
# What reading a missing, damaged or foreign file raises.
UNREADABLE = (OSError, CheckpointError, SafetensorError, ValueError, KeyError)


@dataclass(frozen=True)
class Checkpoint:
    """The state that a run needs to resume: tensors by dotted name, and scalars that JSON can hold.

    Example:
        >>> import torch
        >>> tensors = {"task.weight": torch.ones(2), "average.weight": torch.zeros(2)}
        >>> checkpoint = Checkpoint(tensors, {"step": 3})
        >>> checkpoint.part("task")["weight"].tolist()
        [1.0, 1.0]
    """

    tensors: dict[str, Tensor]
    scalars: dict[str, Any]

    def part(self, prefix: str) -> dict[str, Tensor]:
        """The tensors whose names start with ``prefix.``, by the rest of their names."""
        dotted = f"{prefix}."
        return {name.removeprefix(dotted): t for name, t in self.tensors.items() if name.startswith(dotted)}


def previous_of(path: Path) -> Path:
    """The file in which the checkpoint before the newest one is kept.

    Example:
        >>> previous_of(Path("last.ckpt")).name
        'last.previous.ckpt'
    """
    return path.with_name(f"{path.stem}.previous{path.suffix}")


def read_checkpoint(path: Path) -> Checkpoint:
    """Read the file of a checkpoint.

    Raises:
        Exception: one of `UNREADABLE`.

    Example:
        >>> import tempfile
        >>> with tempfile.NamedTemporaryFile() as file:
        ...     try:
        ...         read_checkpoint(Path(file.name))
        ...     except UNREADABLE as error:
        ...         print(error)
        damaged: its bytes do not match the hash it was saved with
    """
    content = read_regular(path)
    header, payload = content[:HEADER_BYTES], content[HEADER_BYTES:]
    if header != MAGIC + hashlib.sha256(payload).hexdigest().encode() + b"\n":
        raise CheckpointError("damaged: its bytes do not match the hash it was saved with")
    length = int.from_bytes(payload[:8], "little")
    metadata = parse_json(payload[8 : 8 + length])["__metadata__"]
    tensors = load(payload)
    if problem := non_finite(tensors):
        raise CheckpointError(problem)
    return Checkpoint(tensors, parse_json(metadata["scalars"]))
