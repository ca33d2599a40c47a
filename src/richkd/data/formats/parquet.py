"""Open folders and files of parquet."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import datasets
import pyarrow.parquet

from richkd.core.errors import DataError
from richkd.data.classes import check_same_classes
from richkd.data.formats.scan import stamp_of


def open_parquet(files: Sequence[Path]) -> datasets.Dataset:
    """Open parquet files of the same columns and classes as one table.

    Raises:
        DataError: a file that is no parquet, files without rows, or with different columns.
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
    name = f"richkd-{stamp_of(files)[:16]}"
    try:
        return datasets.load_dataset("parquet", name, data_files=[str(file) for file in files], split="train")
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        cause = error.__cause__ or error
        got = f"{type(cause).__name__}: {cause}"
        rule = f"The parquet files of {files[0].parent} must open as one table"
        raise DataError(rule, got=got, fix="write all files with the same columns.") from error


def _check_parquet(files: Sequence[Path]) -> None:
    """Check that all files can be read and have the same classes."""
    names: dict[str, list[str]] = {}
    images = 0
    for file in files:
        try:
            with pyarrow.parquet.ParquetFile(file) as opened:
                features = datasets.Features.from_arrow_schema(opened.schema_arrow)
                images += opened.metadata.num_rows
        except (OSError, ValueError) as error:
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
