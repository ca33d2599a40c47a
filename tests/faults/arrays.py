"""Hostile files of arrays and weights: NumPy, safetensors and PyTorch."""

from __future__ import annotations

import collections
import io
import json
import os
import pickle
import re
import struct
import zipfile
import zlib
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from tests.core.test_archives import npy
from tests.fixtures import make_outputs


class Command:
    """Its pickle runs a command."""

    def __reduce__(self) -> Any:
        return os.system, ("touch ran",)


def saved(**arrays: Any) -> bytes:
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def zipped(members: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file.getvalue()


@lru_cache
def growing(size: int) -> bytes:
    """A zip file whose only member has ``size`` zeros, without the zeros in memory."""
    name, packer, block = b"logits.npy", zlib.compressobj(9, zlib.DEFLATED, -15), bytes(1 << 20)
    content = b"".join([*(packer.compress(block) for _ in range(size >> 20)), packer.flush()])
    fields = (20, 0, 8, 0, 0, 0, len(content), size, len(name), 0)
    local = struct.pack("<IHHHHHIIIHH", 0x04034B50, *fields) + name
    entry = struct.pack("<IHHHHHHIIIHHHHHII", 0x02014B50, 20, *fields, 0, 0, 0, 0, 0) + name
    tail = struct.pack("<IHHHHIIH", 0x06054B50, 0, 0, 1, 1, len(entry), len(local) + len(content), 0)
    return local + content + entry + tail


def safetensors(header: Any, content: bytes = bytes(16), length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + content


def tensor(dtype: str = "F32", shape: tuple[int, ...] = (4,), offsets: tuple[int, int] = (0, 16)) -> Any:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def safetensors_files() -> dict[str, bytes]:
    return {
        "empty.safetensors": b"",
        "length.safetensors": safetensors({}, length=2**63),
        "short.safetensors": safetensors({}, length=500),
        "json.safetensors": safetensors(b"{no json"),
        "nested.safetensors": safetensors(b"[" * 100_000),
        "keys.safetensors": safetensors({"a": 5, "b": []}),
        "overlap.safetensors": safetensors({"a": tensor(), "b": tensor(offsets=(8, 24))}, bytes(24)),
        "type.safetensors": safetensors({"logits": tensor("F5")}),
        "beyond.safetensors": safetensors({"logits": tensor(shape=(10**9,), offsets=(0, 4 * 10**9))}),
        "backward.safetensors": safetensors({"logits": tensor(offsets=(16, 0))}),
        "overflow.safetensors": safetensors({"logits": tensor(shape=(2**62, 2**62))}),
        "bfloat.safetensors": safetensors({"logits": tensor("BF16", (8,))}),
        "texts.safetensors": safetensors({"__metadata__": {"files": "[" * 90_000}, "logits": tensor()}),
        "ragged.safetensors": safetensors({"__metadata__": {"files": "[[1], 2]"}, "logits": tensor()}),
    }


def write_outputs(folder: Path, images: Path) -> list[Path]:
    """Files of teacher outputs."""
    folder.mkdir()
    make_outputs(folder / "good.npz", images)
    good = dict(np.load(folder / "good.npz"))
    whole = (folder / "good.npz").read_bytes()
    files: dict[str, bytes] = {
        "empty.npz": b"",
        "words.npz": b"no archive",
        "truncated.npz": whole[: len(whole) // 2],
        "nothing.npz": saved(),
        "bomb.npz": growing(300 << 20),
        "lying.npz": zipped({"logits.npy": npy("(1000000000000, 3)")}),
        "overflow.npz": zipped({"logits.npy": npy("(9223372036854775807, 9223372036854775807)")}),
        "negative.npz": zipped({"logits.npy": npy("(-4, 3)")}),
        "no bytes.npz": zipped({"files.npy": npy("(1000000000000,)", "'|S0'")}),
        "program.npz": zipped({"logits.npy": npy("__import__('os').system('touch ran')")}),
        "no array.npz": zipped({"logits.npy": b"text"}),
        "objects.npz": saved(logits=np.array([{}], dtype=object)),
        "code.npz": zipped({"logits.npy": npy("(1,)", "'|O'", pickle.dumps(Command()))}),
        "encrypted.npz": re.sub(rb"(?s)(PK\x01\x02.{4})\0", lambda match: match[1] + b"\1", whole),
    }
    changes: dict[str, dict[str, Any]] = {
        "nan.npz": {"logits": np.full_like(good["logits"], np.nan)},
        "infinite.npz": {"logits": np.full(good["logits"].shape, 1e30)},
        "flat.npz": {"logits": good["logits"].ravel()},
        "integers.npz": {"logits": np.ones(good["logits"].shape, int)},
        "words in logits.npz": {"logits": np.full(good["logits"].shape, "a")},
        "probabilities.npz": {"logits": np.full(good["logits"].shape, 1 / 3, np.float32)},
        "rows.npz": {"logits": good["logits"][:5]},
        "columns.npz": {"logits": good["logits"][:, :2]},
        "no classes.npz": {"classnames": np.array([], dtype=str)},
        "classes.npz": {"classnames": np.array(["x", "y", "z"])},
        "keys.npz": {"files": np.repeat(good["files"][:1], len(good["files"]))},
        "views.npz": {"views": np.full(len(good["files"]), -7)},
        "many views.npz": {"views": np.full(len(good["files"]), 2**62)},
        "no rows.npz": {
            "logits": good["logits"][:0],
            "files": good["files"][:0],
            "features": np.empty((0, 4)),
        },
    }
    for name, change in changes.items():
        files[name] = saved(**good | change)
    for name, content in (files | safetensors_files()).items():
        (folder / name).write_bytes(content)
    os.mkfifo(folder / "pipe.npz")
    (folder / "folder.npz").mkdir()
    return [folder / name for name in (*files, *safetensors_files(), "pipe.npz", "folder.npz")]


def write_weights(folder: Path) -> list[Path]:
    """Checkpoints for a network."""
    folder.mkdir()
    state = nn.Linear(4, 3).state_dict()
    cyclic: dict[str, Any] = {}
    cyclic["model"] = cyclic
    whole = torch.zeros(1).expand(10**6, 10**6)
    contents: dict[str, Any] = {
        "code.pth": {"state_dict": state, "run": Command()},
        "module.pth": nn.Linear(4, 3),
        "list.pth": [state],
        "number.pth": 5,
        "words.pth": {"state_dict": {"a": "b"}},
        "numbers as keys.pth": {0: torch.ones(1)},
        "cyclic.pth": cyclic,
        "other network.pth": collections.OrderedDict(state),
        "huge shape.pth": {"fc.weight": whole},
        "nothing.pth": {},
        "two networks.pth": {"a.fc.bias": torch.ones(3), "b.fc.bias": torch.ones(3)},
    }
    for name, content in contents.items():
        torch.save(content, folder / name)
    good = (folder / "other network.pth").read_bytes()
    nested: Any = []
    for _ in range(400):
        nested = [nested]
    raw = {
        "empty.pth": b"",
        "page.pth": b"<html>Sign in to download</html>",
        "pointer.pth": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
        "truncated.pth": good[: len(good) // 2],
        "nested.pth": pickle.dumps(nested),
        "numbers.pth": b"\x80\x02" + b"\x8a\xff" * 100,
        "bomb.pth": growing(300 << 20),
        "gzip.pth": b"\x1f\x8b\x08" + bytes(50),
    }
    for name, content in raw.items():
        (folder / name).write_bytes(content)
    tensors = {name: content for name, content in safetensors_files().items() if name[0] in "elonk"}
    for name, content in tensors.items():
        (folder / name).write_bytes(content)
    os.mkfifo(folder / "pipe.pth")
    return [folder / name for name in (*contents, *raw, *tensors, "pipe.pth")]
