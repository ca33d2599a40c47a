"""Checkpoints: written atomically, hashed, and exact.

A checkpoint is one file: a line with the SHA-256 of all that follows, then a safetensors payload whose
header carries the scalars as JSON. It is written beside its place, flushed to disk and moved over the
old one, which stays as ``previous`` until the next save; so a kill or a full disk at any moment leaves
a whole checkpoint behind, and a flipped bit is found.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn, optim

from richkd.core.errors import CheckpointError
from richkd.core.files import not_written, write_atomically

# What file systems without hard links answer to one.
WITHOUT_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)
MAGIC = b"richkd-checkpoint-1 "
HEADER_BYTES = len(MAGIC) + 64 + 1


@dataclass(frozen=True)
class Checkpoint:
    """All that a run needs to go on: tensors by dotted name, and JSON-able scalars."""

    tensors: dict[str, Tensor]
    scalars: dict[str, Any]

    def part(self, prefix: str) -> dict[str, Tensor]:
        """The tensors under ``prefix.``, without it."""
        dotted = f"{prefix}."
        return {name.removeprefix(dotted): t for name, t in self.tensors.items() if name.startswith(dotted)}


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Save to ``path``, keeping what was there as ``previous`` beside it."""
    # Tensors that share memory or are strided views are refused by safetensors; copies are not.
    tensors = {name: t.detach().cpu().contiguous().clone() for name, t in checkpoint.tensors.items()}
    payload = save(tensors, metadata={"scalars": json.dumps(checkpoint.scalars)})
    digest = hashlib.sha256(payload).hexdigest().encode()
    previous = _previous(path)
    try:
        for stale in path.parent.glob(f".{path.name}.*.tmp"):
            stale.unlink(missing_ok=True)
        if path.exists():
            previous.unlink(missing_ok=True)
            _keep(path, previous)
    except OSError as error:
        raise not_written(previous, len(payload), error) from error
    write_atomically(path, MAGIC + digest + b"\n" + payload)


def load_checkpoint(path: Path) -> tuple[Checkpoint, str | None]:
    """Load a checkpoint, or the previous one where the newest is damaged, which is then replaced by it.

    Returns:
        the checkpoint, and a warning if it is not the newest.

    Raises:
        CheckpointError: neither can be read.
    """
    problems = []
    for candidate in (path, _previous(path)):
        try:
            checkpoint = _read(candidate)
        except (OSError, CheckpointError, SafetensorError, ValueError, KeyError) as error:
            problems.append(f"{candidate.name}: {error}")
            continue
        if not problems:
            return checkpoint, None
        # The next save makes the newest file the previous one, and that has to be a whole one.
        write_atomically(path, candidate.read_bytes())
        return checkpoint, f"{problems[0]}; going on from {candidate.name}"
    raise CheckpointError(
        f"No checkpoint at {path} can be read", got="; ".join(problems), fix="start again with --overwrite."
    )


def optimizer_tensors(optimizer: optim.Optimizer) -> dict[str, Tensor]:
    """An optimizer's state as flat tensors: ``<parameter>.<name>``."""
    state = optimizer.state_dict()["state"]
    return {
        f"{i}.{name}": t for i, entry in state.items() for name, t in entry.items() if isinstance(t, Tensor)
    }


def restore_optimizer(optimizer: optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Put back what :func:`optimizer_tensors` took out."""
    state: dict[int, dict[str, Tensor]] = {}
    for dotted, tensor in tensors.items():
        number, _, name = dotted.partition(".")
        state.setdefault(int(number), {})[name] = tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    # Checkpoints are contiguous. Moments in another layout than their weights take other kernels, which
    # are slower and may round differently.
    for parameter, entry in optimizer.state.items():
        for name, tensor in entry.items():
            if isinstance(tensor, Tensor) and tensor.shape == parameter.shape:
                entry[name] = torch.empty_like(parameter, dtype=tensor.dtype).copy_(tensor)


def load_module(module: nn.Module, tensors: dict[str, Tensor], *, what: str) -> None:
    """Load a module's tensors from a checkpoint, or say that it belongs to another model."""
    try:
        module.load_state_dict(tensors)
    except RuntimeError as error:
        raise CheckpointError(
            f"The checkpoint holds another {what} than this run builds",
            got=str(error).splitlines()[-1].strip(),
            fix="resume with the settings of the first start, or start again with --overwrite.",
        ) from error


def _keep(path: Path, previous: Path) -> None:
    try:
        os.link(path, previous)
    except OSError as error:
        if error.errno not in WITHOUT_LINKS:
            raise
        write_atomically(previous, path.read_bytes())


def _previous(path: Path) -> Path:
    return path.with_name(f"{path.stem}.previous{path.suffix}")


def _read(path: Path) -> Checkpoint:
    content = path.read_bytes()
    header, payload = content[:HEADER_BYTES], content[HEADER_BYTES:]
    if header != MAGIC + hashlib.sha256(payload).hexdigest().encode() + b"\n":
        raise CheckpointError("damaged: its bytes do not match the hash it was saved with")
    length = int.from_bytes(payload[:8], "little")
    metadata = json.loads(payload[8 : 8 + length])["__metadata__"]
    return Checkpoint(load(payload), json.loads(metadata["scalars"]))
