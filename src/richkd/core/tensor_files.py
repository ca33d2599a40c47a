"""Safetensors files with a hash of their tensors in the header, which is checked when they are read."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor

from richkd.core.errors import ModelError
from richkd.core.files import hash_tensors
from richkd.core.regular_files import check_regular

# Name of the hash in the metadata of the header; no other program writes it.
HASH = "richkd.sha256_of_tensors"


def encode_tensors(tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> bytes:
    """The content of a safetensors file, with the hash of the tensors in its metadata.

    Equal tensors and metadata give equal bytes.

    Args:
        tensors: the tensors; they must be contiguous and share no memory.
        metadata: further metadata.

    Example:
        >>> import torch
        >>> len(encode_tensors({"weight": torch.zeros(2)})) > 8
        True
    """
    # The entry "format" is required by readers such as transformers.
    described = {"format": "pt", **(metadata or {}), HASH: hash_tensors(tensors)}
    plain = save(dict(tensors))
    start = 8 + int.from_bytes(plain[:8], "little")
    # The library writes metadata in random order, but equal tensors must give equal bytes.
    header = json.dumps({"__metadata__": described, **json.loads(plain[8:start])}).encode()
    header += b" " * (-len(header) % 8)
    return len(header).to_bytes(8, "little") + header + plain[start:]


def read_tensors(path: str | Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors and the metadata of a safetensors file. Files of other programs have no hash to check.

    Raises:
        ModelError: the tensors are not those that were saved.
        SafetensorError: the file is no safetensors file.
        OSError: the file cannot be read, or is no regular file.

    Example:
        >>> import tempfile, torch
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "a.safetensors"
        ...     size = path.write_bytes(encode_tensors({"weight": torch.ones(2)}, {"from": "here"}))
        ...     tensors, metadata = read_tensors(path)
        >>> tensors["weight"].tolist(), metadata["from"]
        ([1.0, 1.0], 'here')
    """
    # The library would wait for ever for a pipe.
    check_regular(path)
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        metadata = dict(file.metadata() or {})
    if HASH in metadata and hash_tensors(tensors) != metadata[HASH]:
        raise ModelError(
            f"The tensors in {path} must be as they were saved",
            got="another SHA-256 than the one in the header of the file",
            fix="the file is damaged: copy it again, or train again.",
        )
    return tensors, metadata
