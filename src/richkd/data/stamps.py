"""Whether the files of a split are still those whose fingerprint was computed.

The name of a teacher cache contains the fingerprint of the images. If a file changed afterwards, outputs for
its old pixels would be used for its new pixels.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from richkd.core.errors import DataError
from richkd.data.file_types import printable
from richkd.data.opening import RESTORE
from richkd.data.split import Split

# Rows that are read at a time for a fingerprint.
ROWS = 1000

Cell = Mapping[str, bytes | str | None]


@dataclass
class Stamps:
    """Size and modification time of the files of a split at the time of its fingerprint.

    Attributes:
        stamps_N2: size in bytes and modification time in nanoseconds of each image; None before there is a
            fingerprint, for example in a run without a teacher cache.

    Example:
        >>> import datasets
        >>> import torch
        >>> rows = datasets.Dataset.from_dict({"image": [{"bytes": b"a", "path": None}]})
        >>> split = Split("train", rows, torch.tensor([0]), ("ant",), "image", None)
        >>> Stamps().fingerprint(split, "8") == Stamps().fingerprint(split, "16")
        False
    """

    stamps_N2: NDArray[np.int64] | None = None

    def fingerprint(self, split: Split, rendering: str) -> str:
        """SHA-256 of path, size and modification time of files, and of the bytes of embedded images.

        Args:
            split: the images.
            rendering: how source pixels are computed from the files.

        Raises:
            DataError: a file is gone.
        """
        digest = hashlib.sha256(f"{len(split)} at {rendering}".encode())
        stamps_N2 = np.zeros((len(split), 2), dtype=np.int64)
        for start in range(0, len(split), ROWS):
            stop = min(start + ROWS, len(split))
            for index, (key, cell) in enumerate(split.cells(start, stop), start=start):
                digest.update(key.encode())
                content = cell.get("bytes")
                if isinstance(content, bytes):
                    digest.update(hashlib.sha256(content).digest())
                else:
                    stamps_N2[index] = size, time = stamp(key, cell)
                    digest.update(repr((cell.get("path"), size, time)).encode())
        self.stamps_N2 = stamps_N2
        return digest.hexdigest()

    def check(self, index: int, name: str, cell: Cell) -> None:
        """Check that a file is still the one of the fingerprint; call it after the file was read.

        Args:
            index: position of the image in the split.
            name: key of the image, for error messages.
            cell: the encoded image; embedded images cannot change.

        Raises:
            DataError: the file has another size or modification time, or is gone.
        """
        if self.stamps_N2 is None or isinstance(cell.get("bytes"), bytes):
            return
        now, then = stamp(name, cell), tuple(self.stamps_N2[index].tolist())
        if now != then:
            raise DataError(
                f"Image {name} must not change during a run, because outputs of its old pixels are stored",
                got=f"it changed: {then[0]:,} bytes at the start, now {now[0]:,}"
                + (", modified later" if now[1] > then[1] else ", with another modification time"),
                fix="restore the file with its modification time, or keep it and resume the run with "
                "--accept-changed-images: outputs of a changed data set are stored anew.",
            )


def stamp(name: str, cell: Cell) -> tuple[int, int]:
    """Size in bytes and modification time in nanoseconds of the file of an image.

    Args:
        name: key of the image, for error messages.
        cell: the encoded image, which holds the path.

    Raises:
        DataError: the file is gone.

    Example:
        >>> import tempfile
        >>> with tempfile.NamedTemporaryFile() as file:
        ...     stamp("a.png", {"path": file.name, "bytes": None})[0]
        0
    """
    path = Path(str(cell.get("path")))
    try:
        status = path.stat()
    except (OSError, ValueError) as error:
        got = f"{getattr(error, 'strerror', None) or error}: {printable(path)}"
        raise DataError(f"Image {name} must be readable", got=got, fix=RESTORE) from error
    return status.st_size, status.st_mtime_ns
