"""Class embeddings on disk: each file has the hash of its content, so that damage is never used."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from richkd.core.files import hash_tensors, write_atomically
from richkd.core.logs import logger_of
from richkd.core.regular_files import read_regular

_LOG = logger_of(__name__)
TENSOR = "class_embeddings"


def embeddings_path(folder: Path, key: str) -> Path:
    """The file of the class embeddings with this key.

    Example:
        >>> embeddings_path(Path("cache"), "0123456789abcdef" * 4).name
        'class-embeddings-0123456789abcdef0123456789abcdef.safetensors'
    """
    return folder / f"class-embeddings-{key[:32]}.safetensors"


def write_embeddings(
    path: Path, key: str, embeddings_CD: Tensor, *, clip: str, class_names: Sequence[str]
) -> None:
    """Write class embeddings atomically, with the key and the hash of the content.

    Several processes may write the same file; the last complete one remains.

    Args:
        path: the file; missing folders are created.
        key: what the embeddings were computed from, as a hash.
        embeddings_CD: the class embeddings.
        clip: name of the model; information only, as the class names.
        class_names: names of the classes.

    Raises:
        CheckpointError: the file cannot be written.
    """
    tensors = {TENSOR: embeddings_CD.cpu()}
    metadata = {"key": key, "content": hash_tensors(tensors), "clip": clip}
    metadata["classnames"] = json.dumps(list(class_names))
    write_atomically(path, save(tensors, metadata=metadata))


def read_embeddings(path: Path, key: str, shape: tuple[int, int]) -> Tensor | None:
    """Read class embeddings; None if there is no file, or if it is damaged, which is logged.

    Args:
        path: the file.
        key: the key that it must have.
        shape: number of classes and width.

    Example:
        >>> import tempfile, torch
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = embeddings_path(Path(folder), "a" * 64)
        ...     write_embeddings(path, "a" * 64, torch.eye(2), clip="tiny", class_names=["cat", "dog"])
        ...     read_embeddings(path, "a" * 64, (2, 2)).tolist()
        [[1.0, 0.0], [0.0, 1.0]]
    """
    if not path.is_file():
        return None
    try:
        # The file is read once: another process may replace it between two reads.
        content = read_regular(path)
        stored_CD = load(content)[TENSOR]
        damage = _damage(_metadata(content), stored_CD, key, shape)
    except (OSError, SafetensorError, KeyError) as error:
        damage = str(error)
    if damage is None:
        return stored_CD
    _LOG.warning("The class embeddings in %s cannot be used; they are computed again: %s", path, damage)
    return None


def _metadata(content: bytes) -> dict[str, str]:
    """The metadata of a safetensors file that was read without an error."""
    length = int.from_bytes(content[:8], "little")
    metadata: dict[str, str] = json.loads(content[8 : 8 + length]).get("__metadata__", {})
    return metadata


def _damage(metadata: Mapping[str, str], stored_CD: Tensor, key: str, shape: tuple[int, int]) -> str | None:
    if metadata.get("key") != key or stored_CD.shape != shape:
        return "its key or shape is not that of these prompts"
    if metadata.get("content") != hash_tensors({TENSOR: stored_CD}):
        return "its content does not have the hash that was stored with it"
    # Files can be written by others, who can also write a hash.
    return None if bool(stored_CD.isfinite().all()) else "NaN or infinity"
