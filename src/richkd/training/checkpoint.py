"""Checkpoints: written atomically and protected by a hash; a resumed run is bit-identical.

`richkd.core.checkpoint_file` describes the file. A new checkpoint is written to a temporary file, flushed to
disk and then renamed to its final name. The old checkpoint is kept as ``previous`` until the next save. So
there is a valid checkpoint at any moment, even if the process is killed or the disk is full, and a damaged
file is detected.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
from pathlib import Path

from safetensors.torch import save
from torch import Tensor, nn

from richkd.core.checkpoint_file import MAGIC, UNREADABLE, Checkpoint, previous_of, read_checkpoint
from richkd.core.errors import CheckpointError
from richkd.core.files import not_written, write_atomically

# Error numbers of file systems that do not support hard links.
WITHOUT_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)


def save_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Save a checkpoint; an existing one is kept as ``NAME.previous.ckpt`` in the same folder.

    Raises:
        CheckpointError: the file cannot be written; the existing checkpoint is then unchanged.

    Example:
        >>> import tempfile, torch
        >>> folder = tempfile.TemporaryDirectory()
        >>> path = Path(folder.name) / "last.ckpt"
        >>> for step in (1, 2):
        ...     save_checkpoint(path, Checkpoint({"weight": torch.full((1,), float(step))}, {"step": step}))
        >>> loaded, warning = load_checkpoint(path)
        >>> loaded.scalars["step"], warning, sorted(file.name for file in path.parent.iterdir())
        (2, None, ['last.ckpt', 'last.previous.ckpt'])
        >>> folder.cleanup()
    """
    # safetensors rejects tensors that share memory or are strided views, so copies are saved.
    tensors = {name: t.detach().cpu().contiguous().clone() for name, t in checkpoint.tensors.items()}
    payload = save(tensors, metadata={"scalars": json.dumps(checkpoint.scalars)})
    digest = hashlib.sha256(payload).hexdigest().encode()
    previous = previous_of(path)
    try:
        if path.exists():
            previous.unlink(missing_ok=True)
            _keep(path, previous)
    except OSError as error:
        raise not_written(previous, len(payload), error) from error
    write_atomically(path, MAGIC + digest + b"\n" + payload)


def load_checkpoint(path: Path) -> tuple[Checkpoint, str | None]:
    """Load a checkpoint. If it is damaged, load the previous one instead and replace the damaged file by it.

    Returns:
        The checkpoint, and a warning if the previous checkpoint was loaded.

    Raises:
        CheckpointError: neither file can be read, or both contain numbers that are NaN or infinite.

    Example:
        >>> import tempfile
        >>> folder = tempfile.TemporaryDirectory()
        >>> path = Path(folder.name) / "last.ckpt"
        >>> for step in (1, 2):
        ...     save_checkpoint(path, Checkpoint({}, {"step": step}))
        >>> size = path.write_bytes(b"damaged")
        >>> loaded, warning = load_checkpoint(path)
        >>> loaded.scalars["step"], warning.endswith("last.previous.ckpt is used instead")
        (1, True)
        >>> folder.cleanup()
    """
    problems = []
    for candidate in (path, previous_of(path)):
        try:
            checkpoint = read_checkpoint(candidate)
        except UNREADABLE as error:
            problems.append(f"{candidate.name}: {error}")
            continue
        if not problems:
            return checkpoint, None
        # The next save keeps the newest file as the previous one, so it must be a valid one.
        write_atomically(path, candidate.read_bytes())
        return checkpoint, f"{problems[0]}; {candidate.name} is used instead"
    raise CheckpointError(
        f"No checkpoint at {path} can be read", got="; ".join(problems), fix="start again with --overwrite."
    )


def load_module(module: nn.Module, tensors: dict[str, Tensor], *, what: str) -> None:
    """Load the tensors of a module from a checkpoint.

    Args:
        what: name of the module in the error message.

    Raises:
        CheckpointError: names or shapes of the tensors differ from those of the module.

    Example:
        >>> import torch
        >>> module = nn.Linear(1, 1)
        >>> load_module(module, {"weight": torch.ones(1, 1), "bias": torch.zeros(1)}, what="student")
        >>> module(torch.full((1, 1), 3.0)).tolist()
        [[3.0]]
    """
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
