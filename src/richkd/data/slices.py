"""Images that are a part of a larger file, such as the members of a tar file, and are read where they lie."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import datasets

from richkd.core.errors import DataError, ImageError
from richkd.core.regular_files import open_regular
from richkd.data.file_types import printable

# Name of the column that says where the bytes of an image are.
COLUMN = "richkd: slice"
FEATURE = {
    "file": datasets.Value("string"),
    "offset": datasets.Value("int64"),
    "size": datasets.Value("int64"),
    # The time of modification of the file in nanoseconds, when its members were listed.
    "modified": datasets.Value("int64"),
}


def read_slice(slice_: Mapping[str, Any], name: str) -> bytes:
    """The bytes of an image.

    Args:
        slice_: a cell of the column: file, offset and size in bytes, and time of modification of the file.
        name: key of the image, for error messages.

    Raises:
        ImageError: the file is gone, too short, or was changed after its members were listed.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = Path(folder) / "train.tar"
        ...     size = file.write_bytes(b"header image")
        ...     place = {"file": str(file), "offset": 7, "size": 5, "modified": file.stat().st_mtime_ns}
        ...     read_slice(place, "0.jpg")
        b'image'
    """
    path, size = Path(slice_["file"]), slice_["size"]
    rule = f"Image {name} must be readable in {printable(path)}"
    try:
        with open_regular(path) as file:
            modified = path.stat().st_mtime_ns
            file.seek(slice_["offset"])
            content = file.read(size)
    except OSError as error:
        raise ImageError(rule, got=error.strerror or str(error), fix="restore the file.") from error
    if len(content) < size or modified != slice_["modified"]:
        got = f"{len(content):,} of {size:,} bytes" if len(content) < size else "a file that was changed"
        raise ImageError(rule, got=got, fix="restore the file, or repeat the command to read the new one.")
    return content


def refuse_slices(rows: datasets.Dataset, where: str) -> None:
    """Check that a table of a file has no such column, which could name any file of this machine.

    Raises:
        DataError: it has one.

    Example:
        >>> refuse_slices(datasets.Dataset.from_dict({"label": [0]}), "zoo.parquet")
    """
    if COLUMN in rows.column_names:
        raise DataError(
            f"{where} must not have a column named {COLUMN!r}, which tells where images are",
            got="such a column",
            fix="rename the column.",
        )
