"""Open folders and files of parquet."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
import pyarrow
import pyarrow.parquet

from richkd.core.archives import FREE, RATIO
from richkd.core.errors import DataError
from richkd.data.classes import check_same_classes
from richkd.data.formats.outside import place_files, refuse_special
from richkd.data.formats.parquet_rows import column_of_images, open_in_place
from richkd.data.formats.scan import stamp_of_files
from richkd.data.slices import refuse_slices

PARQUET = ".parquet"


def may_hold_images(file: Path) -> bool:
    """Whether a parquet file has a column of bytes or of image files; also if the file cannot be read.

    Raises:
        DataError: the file is a pipe or a device.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = Path(folder) / "embeddings.parquet"
        ...     size = datasets.Dataset.from_dict({"file": ["0.png"], "embedding": [[0.5]]}).to_parquet(file)
        ...     may_hold_images(file)
        False
    """
    refuse_special(file)
    try:
        schema = pyarrow.parquet.read_schema(file)
    # A damaged file is named when it is opened.
    except Exception:
        return True
    return any(_may_be_of_images(field.type) for field in schema)


def _may_be_of_images(kind: pyarrow.DataType) -> bool:
    if pyarrow.types.is_struct(kind):
        return "bytes" in {kind.field(place).name for place in range(kind.num_fields)}
    types = pyarrow.types
    return bool(types.is_binary(kind) or types.is_large_binary(kind) or types.is_binary_view(kind))


def open_parquet(files: Sequence[Path], root: Path | None = None) -> datasets.Dataset:
    """Open parquet files of the same columns and classes as one table.

    Images of files with small row groups are read from the files whenever they are needed, others are copied
    to the cache of the library `datasets`. A cell without bytes names a file, relative to ``root`` and inside
    of it.

    Args:
        files: the files.
        root: the folder of the data; by default that of the first file.

    Raises:
        DataError: a file that is no parquet, grows too much when it is read, or has two columns of one name
            or a column of a type that is not supported; files without rows or with different columns; or an
            image outside of ``root``.
        ClassError: files with different classes.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = Path(folder) / "zoo.parquet"
        ...     size = datasets.Dataset.from_dict({"label": [0, 1]}).to_parquet(file)
        ...     len(open_parquet([file]))
        2
    """
    _check_parquet(files)
    # The loader caches a file by path and modification time, which a replaced file may share.
    name = f"richkd-{stamp_of_files(files)[:16]}"
    try:
        image = column_of_images(files)
        if image is not None:
            return open_in_place(files, image, name)
        names = [str(file) for file in files]
        rows = datasets.load_dataset("parquet", name, data_files=names, split="train")
    # Readers of damaged pages, and of features that do not fit, raise errors of many types.
    except Exception as error:
        cause = error.__cause__ or error
        got = f"{type(cause).__name__}: {cause}"
        rule = f"The parquet files of {files[0].parent} must open as one table"
        raise DataError(rule, got=got, fix="write all files with the same columns.") from error
    refuse_slices(rows, str(files[0]))
    return place_files(rows, root or files[0].parent, str(files[0]))


def _check_parquet(files: Sequence[Path]) -> None:
    """Check that all files can be read and have the same classes."""
    names: dict[str, list[str]] = {}
    images = 0
    for file in files:
        refuse_special(file)
        try:
            with pyarrow.parquet.ParquetFile(file) as opened:
                features = _features_of(opened.schema_arrow, file)
                images += opened.metadata.num_rows
                _check_growth(opened, file.stat().st_size)
        except DataError:
            raise
        # Metadata of features may be any JSON.
        except Exception as error:
            raise DataError(
                f"{file} must be a parquet file", got=str(error), fix="write or copy the file again."
            ) from error
        # The loader would use the names of the first file for all files, even if their order differs.
        for column, feature in features.items():
            if isinstance(feature, datasets.ClassLabel):
                expected = names.setdefault(column, feature.names)
                check_same_classes(expected, feature.names, where=str(file), reference=str(files[0]))
    if not images:
        raise DataError(f"{files[0]} must contain images", got="no rows", fix="add images to it.")


def _features_of(schema: pyarrow.Schema, file: Path) -> datasets.Features:
    """The features of the columns, which must differ in their names and have types that `datasets` knows."""
    twice = next((name for name in schema.names if schema.names.count(name) > 1), None)
    if twice is not None:
        rule, got = f"The columns of {file} must have different names", f"'{twice}' twice"
        raise DataError(rule, got=got, fix="rename or drop one of them.")
    try:
        return datasets.Features.from_arrow_schema(schema)
    except Exception:
        unknown = next((field for field in schema if not _is_known(field)), None)
        if unknown is None:
            raise
        raise DataError(
            f"The columns of {file} must have types that can be read",
            got=f"'{unknown.name}' of type {unknown.type}",
            fix=f"write the file without this column: table.drop_columns('{unknown.name}').",
        ) from None


def _is_known(field: pyarrow.Field) -> bool:
    try:
        datasets.Features.from_arrow_schema(pyarrow.schema([field.remove_metadata()]))
    except Exception:
        return False
    return True


def _check_growth(opened: pyarrow.parquet.ParquetFile, size: int) -> None:
    """Check that cells do not need much more memory than the file has bytes."""
    limit, total = max(FREE, RATIO * size), 0
    for number in range(opened.num_row_groups):
        group = opened.metadata.row_group(number)
        for place in range(group.num_columns):
            column = group.column(place)
            total += column.total_uncompressed_size
            # A value of the dictionary is stored once, and can be repeated in every row.
            repeated = _dictionary_bytes(column)
            if repeated and total + repeated * column.num_values > limit:
                total += _measured(opened, number, column, limit - total, max(1, FREE // repeated))
            if total > limit:
                name, most = column.path_in_schema, f"{limit:,} bytes in a file of {size:,}"
                raise ValueError(f"column '{name}' grows to more than {most}")


def _dictionary_bytes(column: Any) -> int:
    """About how many bytes the dictionary of a column has; 0 if there is none."""
    if not column.has_dictionary_page or column.physical_type not in ("BYTE_ARRAY", "FIXED_LEN_BYTE_ARRAY"):
        return 0
    stored = column.data_page_offset - (column.dictionary_page_offset or column.data_page_offset)
    return int(stored * max(1.0, column.total_uncompressed_size / max(1, column.total_compressed_size)))


def _measured(opened: pyarrow.parquet.ParquetFile, group: int, column: Any, most: int, rows: int) -> int:
    """Bytes of the values of a column, counted until they are more than ``most``."""
    total = 0
    name = column.path_in_schema.partition(".")[0]
    for batch in opened.iter_batches(batch_size=min(rows, 1000), row_groups=[group], columns=[name]):
        total += batch.nbytes
        if total > most:
            break
    return total
