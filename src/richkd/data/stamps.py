"""Whether the files of a split are still those whose fingerprint was computed.

The name of a teacher cache contains the fingerprint of the images. If a file changed afterwards, outputs for
its old pixels would be used for its new pixels.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from richkd.core.checksums import hash_file
from richkd.core.errors import DataError
from richkd.data.contents import Cell, Contents, Stamp, hash_images, key_of, stamp_of
from richkd.data.split import Split


@dataclass
class Stamps:
    """Stamps and hashes of the files of a split at the time of its fingerprint.

    Attributes:
        stamps_N4: the stamp of each image (`stamp_of`); None before there is a fingerprint, for example in
            a run without a teacher cache.
        digests_N32: SHA-256 of each image.

    Example:
        >>> import datasets
        >>> import torch
        >>> rows = datasets.Dataset.from_dict({"image": [{"bytes": b"a", "path": None}]})
        >>> split = Split("train", rows, torch.tensor([0]), ("ant",), "image", None)
        >>> Stamps().fingerprint(split, "8") == Stamps().fingerprint(split, "16")
        False
    """

    stamps_N4: NDArray[np.int64] | None = None
    digests_N32: NDArray[np.uint8] | None = None

    def fingerprint(self, split: Split, rendering: str, contents: Contents | None = None) -> str:
        """SHA-256 of the contents of all images in their order. Paths and times of files do not matter.

        Args:
            split: the images.
            rendering: how source pixels are computed from the files.
            contents: hashes of contents that are known; by default every image is read.

        Raises:
            DataError: a file cannot be read.
        """
        contents = contents or Contents()
        with contents.kept():
            content = self._known_table(split, contents) or self._content(split, contents)
        return hashlib.sha256(f"{len(split)} at {rendering} {content.hex()}".encode()).hexdigest()

    def check(self, index: int, name: str, cell: Cell) -> None:
        """Check that a file is still the one of the fingerprint; call it after the file was read.

        Args:
            index: position of the image in the split.
            name: key of the image, for error messages.
            cell: the encoded image; embedded images cannot change.

        Raises:
            DataError: the file has another content, or is gone.
        """
        if self.stamps_N4 is None or self.digests_N32 is None or isinstance(cell.get("bytes"), bytes):
            return
        path = str(cell.get("path"))
        now, then = stamp_of(name, path), tuple(self.stamps_N4[index].tolist())
        # A file that was only copied, or whose rights were changed, has the same pixels.
        if now != then and not _has_content(path, self.digests_N32[index].tobytes()):
            raise DataError(
                f"Image {name} must not change during a run, because outputs of its old pixels are stored",
                got=f"it changed: {then[0]:,} bytes at the start, now {now[0]:,}, with another content",
                fix="restore the file, or keep it and resume the run with --accept-changed-images: outputs "
                "of changed images are computed again.",
            )

    def _content(self, split: Split, contents: Contents) -> bytes:
        """SHA-256 of the SHA-256 of each image."""
        self.stamps_N4, self.digests_N32 = hash_images(split, contents)
        whole = hashlib.sha256(self.digests_N32.tobytes()).digest()
        only_embedded = not self.stamps_N4.any()
        if only_embedded and (known := _table_stamp(split)) is not None:
            contents.keep(*known, whole)
        return whole

    def _known_table(self, split: Split, contents: Contents) -> bytes | None:
        """The hash of embedded images whose table was read before; None if it must be read."""
        if (known := _table_stamp(split)) is None:
            return None
        key, stamp = known
        (at,) = contents.find(np.array([key], np.int64), np.array([stamp], np.int64)).tolist()
        return None if at < 0 else contents.digest(at)


def _table_stamp(split: Split) -> tuple[int, Stamp] | None:
    """A key and a stamp of the rows of a table in files; None for a table in memory.

    The rows follow from the table's files, and from the fingerprint that `datasets` makes of all operations.
    """
    files = [Path(entry["filename"]) for entry in split.table.cache_files]
    operations = getattr(split.table, "_fingerprint", None)
    if not files or operations is None:
        return None
    stamps = [(str(file), *stamp_of(str(file), file)) for file in files]
    text = repr((operations, len(split), split.image_column, stamps))
    first, second, third, fourth = np.frombuffer(hashlib.sha256(text.encode()).digest(), np.int64).tolist()
    return key_of(text), (first, second, third, fourth)


def _has_content(path: str, digest: bytes) -> bool:
    try:
        return bytes.fromhex(hash_file(path)) == digest
    except OSError:
        return False
