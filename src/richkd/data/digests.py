"""A short digest of each image of a split, by which a resumed run knows that its images are still the same.

A digest is one of the file's bytes, so it does not depend on where a data set lies or whether its images are
kept in memory. The bytes of very large data sets are not read: there a digest is one of size and modification
time, which `mv` and `rsync -a` keep.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from richkd.data.contents import ROWS, Cell, Contents, hash_images, stamp_of
from richkd.data.split import Split

# Files are hashed if all of them together have at most this size: about 10 s from a fast disk.
HASHED_BYTES = 4 << 30
NANOSECONDS = 1_000_000_000


def are_hashed(splits: Iterable[Split], most: int = HASHED_BYTES) -> bool:
    """Whether the bytes of the files of all splits are few enough to be read for digests.

    Raises:
        DataError: a file is gone.

    Example:
        >>> import datasets
        >>> import torch
        >>> rows = datasets.Dataset.from_dict({"image": [{"bytes": b"a", "path": None}]})
        >>> are_hashed([Split("train", rows, torch.tensor([0]), ("ant",), "image", None)])
        True
    """
    total = 0
    for split in splits:
        for start in range(0, len(split), ROWS):
            for key, cell in split.cells(start, min(start + ROWS, len(split))):
                embedded = isinstance(cell.get("bytes"), bytes)
                total += 0 if embedded else stamp_of(key, str(cell.get("path")))[0]
            if total > most:
                return False
    return True


def digests_of(split: Split, *, hashed: bool, contents: Contents | None = None) -> NDArray[np.uint64]:
    """A digest of each image (N,): the first 8 bytes of a SHA-256.

    Args:
        split: the images.
        hashed: of the bytes of a file; else of its size and modification time (in seconds). Embedded images
            are always hashed.
        contents: hashes of files that are known; by default every file is read.

    Raises:
        DataError: a file is gone or cannot be read.

    Example:
        >>> import datasets
        >>> import torch
        >>> rows = datasets.Dataset.from_dict({"image": [{"bytes": b"a", "path": None}] * 2})
        >>> split = Split("train", rows, torch.tensor([0, 0]), ("ant",), "image", None)
        >>> digest_N = digests_of(split, hashed=True)
        >>> bool(digest_N[0] == digest_N[1])
        True
    """
    if hashed:
        contents = contents or Contents()
        with contents.kept():
            _, digests_N32 = hash_images(split, contents)
        return digests_N32[:, :8].copy().view("<u8")[:, 0]
    digest_N = np.zeros(len(split), dtype="<u8")
    for start in range(0, len(split), ROWS):
        stop = min(start + ROWS, len(split))
        for index, (key, cell) in enumerate(split.cells(start, stop), start=start):
            digest = hashlib.sha256(_content(key, cell)).digest()
            digest_N[index] = int.from_bytes(digest[:8], "little")
    return digest_N


def changed_images(
    split: Split, then_N: NDArray[np.uint64], now_N: NDArray[np.uint64], most: int = 3
) -> str | None:
    """Which images of a split differ, for messages; None if all are the same.

    Example:
        >>> import datasets
        >>> import torch
        >>> rows = datasets.Dataset.from_dict({"image": [{"bytes": b"a", "path": None}] * 2})
        >>> split = Split("train", rows, torch.tensor([0, 0]), ("ant",), "image", None)
        >>> changed_images(split, np.array([1, 2], dtype="u8"), np.array([1, 3], dtype="u8"))
        '1 of 2 images of train: train[1]'
    """
    if len(then_N) != len(now_N):
        new = np.flatnonzero(~np.isin(now_N, then_N))
        text = f"{len(now_N):,} images of {split.name} where the run has {len(then_N):,}"
    else:
        new = np.flatnonzero(then_N != now_N)
        if not len(new):
            return None
        text = f"{len(new):,} of {len(now_N):,} images of {split.name}"
    names = [split.key(int(index)) for index in new[:most]]
    return text + (f": {', '.join(names)}" if names else "") + (", …" if len(new) > most else "")


def encoded(digest_N: NDArray[np.uint64]) -> dict[str, str]:
    """The digests of a split as an entry of a JSON record, which `decoded` reads.

    Example:
        >>> encoded(np.array([1], dtype="<u8"))
        {'digests': 'AQAAAAAAAAA='}
    """
    return {"digests": base64.b64encode(digest_N.tobytes()).decode()}


def decoded(split: Mapping[str, Any]) -> NDArray[np.uint64]:
    """The digests of the images of a split (N,) in a record, as `encoded` wrote them.

    Example:
        >>> decoded({"digests": "AQAAAAAAAAA="}).tolist()
        [1]
    """
    return np.frombuffer(base64.b64decode(split["digests"]), dtype="<u8")


def _content(key: str, cell: Cell) -> bytes:
    """The bytes of an embedded image; size and modification time of a file."""
    content = cell.get("bytes")
    if isinstance(content, bytes):
        return content
    size, modified, *_ = stamp_of(key, str(cell.get("path")))
    return repr((size, modified // NANOSECONDS)).encode()
