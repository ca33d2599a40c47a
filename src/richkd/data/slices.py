"""Images that are a part of a larger file, as in tar and parquet files, and are read where they lie."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import datasets
import pyarrow
import pyarrow.parquet

from richkd.core.errors import DataError, ImageError
from richkd.data.file_types import printable
from richkd.data.remote import open_file, version_of

# Name of the column that says where the bytes of an image are.
COLUMN = "richkd: slice"
FEATURE = {
    "file": datasets.Value("string"),
    "offset": datasets.Value("int64"),
    "size": datasets.Value("int64"),
    # The time of modification of the file in nanoseconds, when its members were listed.
    "modified": datasets.Value("int64"),
    # In a parquet file: the column of images, and the row group in which ``offset`` counts rows.
    "column": datasets.Value("string"),
    "group": datasets.Value("int64"),
}
# Row groups of parquet that a process keeps, because the next image is often in the same one.
KEPT = 4
REPEAT = "restore the file, or repeat the command to read the new one."


def read_slice(slice_: Mapping[str, Any], name: str) -> bytes:
    """The bytes of an image.

    Args:
        slice_: a cell of the column: file, offset and size in bytes, and time of modification of the file; or
            column, row group and row of a parquet file.
        name: key of the image, for error messages.

    Raises:
        ImageError: the file is gone, too short, or was changed after its members were listed.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = Path(folder) / "train.tar"
        ...     size = file.write_bytes(b"header image")
        ...     place = {"file": str(file), "offset": 7, "size": 5, "modified": file.stat().st_mtime_ns}
        ...     read_slice(place, "0.jpg")
        b'image'
    """
    if slice_.get("column") is not None:
        return _read_cell(slice_, name)
    file, size = slice_["file"], slice_["size"]
    try:
        with open_file(file) as opened:
            modified, *_ = version_of(file)
            opened.seek(slice_["offset"])
            content = opened.read(size)
    except OSError as error:
        got = error.strerror or str(error)
        raise ImageError(_rule(name, file), got=got, fix="restore the file.") from error
    if len(content) < size or modified != slice_["modified"]:
        got = f"{len(content):,} of {size:,} bytes" if len(content) < size else "a file that was changed"
        raise ImageError(_rule(name, file), got=got, fix=REPEAT)
    return content


def _read_cell(slice_: Mapping[str, Any], name: str) -> bytes:
    file = slice_["file"]
    try:
        version = version_of(file)
        images = _row_group(file, version, slice_["group"], slice_["column"])
        content: bytes = images[slice_["offset"]].as_py()
    except (OSError, IndexError, pyarrow.ArrowException) as error:
        raise ImageError(_rule(name, file), got=str(error), fix="restore the file.") from error
    if version[0] != slice_["modified"]:
        raise ImageError(_rule(name, file), got="a file that was changed", fix=REPEAT)
    return content


def _rule(name: str, file: str) -> str:
    return f"Image {name} must be readable in {printable(file)}"


@lru_cache(maxsize=KEPT)
def _row_group(file: str, version: tuple[int, ...], group: int, column: str) -> pyarrow.ChunkedArray:
    """The encoded images of a row group. The version tells a replaced file from the one before."""
    with open_file(file) as content, pyarrow.parquet.ParquetFile(content) as opened:
        cells = opened.read_row_group(group, columns=[f"{column}.bytes"]).column(0)
    return pyarrow.chunked_array([chunk.field("bytes") for chunk in cells.chunks])


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
