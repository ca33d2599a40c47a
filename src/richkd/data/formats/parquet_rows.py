"""Open parquet files without a copy of their images: a table with the place of each image, and other columns.

A row group is the smallest part of a parquet file that can be read, so images in large row groups are copied.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import datasets
import pyarrow
import pyarrow.parquet

from richkd.data.remote import name_of, open_file, version_of
from richkd.data.slices import COLUMN, FEATURE

# Largest images of a row group in bytes: reading one image decompresses all of them.
GROUP = 64 << 20


def column_of_images(files: Sequence[str | Path]) -> str | None:
    """The column whose images can stay where they are; None if they have to be copied.

    It is the only column of images, each image has its bytes in the file, no row group is large, and all
    files have the same columns.

    Args:
        files: parquet files that can be opened, also of the hub (`richkd.data.remote`).

    Example:
        >>> import tempfile
        >>> cells = [{"bytes": b"...", "path": None}] * 3
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = Path(folder) / "zoo.parquet"
        ...     size = datasets.Dataset.from_dict({"image": cells, "label": [0, 1, 0]}).to_parquet(file)
        ...     column_of_images([file])
        'image'
    """
    columns, schemas = set[str | None](), list[pyarrow.Schema]()
    for file in files:
        with _opened(file) as opened:
            columns.add(_column_of(opened))
            schemas.append(opened.schema_arrow.remove_metadata())
    return columns.pop() if len(columns) == 1 and all(schema == schemas[0] for schema in schemas) else None


def open_in_place(files: Sequence[str | Path], image: str, name: str) -> datasets.Dataset:
    """A table of all columns, in which the column of images has no bytes but the place of each image.

    Args:
        files: parquet files of the same columns.
        image: result of `column_of_images`.
        name: part of the name under which the table is kept in the cache of the library `datasets`.

    Raises:
        OSError, ValueError, pyarrow.ArrowException, datasets.exceptions.DatasetsError: the files cannot be
            read as one table.

    Example:
        >>> import tempfile
        >>> cells = [{"bytes": b"...", "path": None}] * 3
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = Path(folder) / "zoo.parquet"
        ...     size = datasets.Dataset.from_dict({"image": cells, "label": [0, 1, 0]}).to_parquet(file)
        ...     rows = open_in_place([file], "image", "example")
        >>> rows["label"][:], rows[0][COLUMN]["group"]
        ([0, 1, 0], 0)
    """
    with _opened(files[0]) as opened:
        features = datasets.Features.from_arrow_schema(opened.schema_arrow)
    features = datasets.Features(features | {image: datasets.Image(decode=False), COLUMN: FEATURE})
    arguments = {"files": [name_of(file) for file in files], "image": image, "name": name}
    return datasets.Dataset.from_generator(_rows, features=features, gen_kwargs={"arguments": arguments})


@contextmanager
def _opened(file: str | Path) -> Iterator[pyarrow.parquet.ParquetFile]:
    with open_file(str(file)) as content, pyarrow.parquet.ParquetFile(content) as opened:
        yield opened


def _column_of(opened: pyarrow.parquet.ParquetFile) -> str | None:
    schema, metadata = opened.schema_arrow, opened.metadata
    images = [str(field.name) for field in schema if _holds_images(field.type)]
    if len(images) != 1 or COLUMN in schema.names or len(set(schema.names)) < len(schema.names):
        return None
    path = f"{images[0]}.bytes"
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        chunks = (group.column(place) for place in range(group.num_columns))
        chunk = next((chunk for chunk in chunks if chunk.path_in_schema == path), None)
        statistics = None if chunk is None else chunk.statistics
        if chunk is None or chunk.total_uncompressed_size > GROUP:
            return None
        # A cell without bytes names a file.
        if statistics is None or not statistics.has_null_count or statistics.null_count:
            return None
    return images[0]


def _holds_images(kind: pyarrow.DataType) -> bool:
    if not pyarrow.types.is_struct(kind):
        return False
    names = {kind.field(place).name for place in range(kind.num_fields)}
    return names == {"bytes", "path"}


def _rows(arguments: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The rows of all files, with places instead of images."""
    image = arguments["image"]
    for file in arguments["files"]:
        place = {"file": file, "modified": version_of(file)[0], "size": None, "column": image}
        with _opened(file) as opened:
            others = [name for name in opened.schema_arrow.names if name != image]
            for group in range(opened.num_row_groups):
                for offset, row in enumerate(opened.read_row_group(group, columns=others).to_pylist()):
                    # The path in a cell that has bytes means nothing, and must not name any other file.
                    cell = {"bytes": None, "path": Path(file).name}
                    yield row | {image: cell, COLUMN: place | {"group": group, "offset": offset}}
