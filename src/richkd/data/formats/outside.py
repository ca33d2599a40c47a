"""Refuse images outside of the data folder: a downloaded table must not choose which files are read."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import pyarrow.compute
import pyarrow.types

from richkd.core.errors import DataError
from richkd.core.presence import resolved
from richkd.core.regular_files import kind_of
from richkd.data.file_types import printable
from richkd.data.formats.scan import first_few

# Name of a column until it replaces another one.
PLACED = "richkd: placed"


def is_inside(file: Path, roots: Sequence[Path], known: dict[str, str] | None = None) -> bool:
    """Whether a file is below one of some folders, after ``..`` and symbolic links are resolved.

    Args:
        file: the file.
        roots: the folders, resolved.
        known: resolved folders by folder, which is filled and makes further files fast.

    Example:
        >>> here = Path(__file__).resolve()
        >>> is_inside(here, [here.parent]), is_inside(here.parent / ".." / "x.png", [here.parent])
        (True, False)
    """
    known = {} if known is None else known
    if "\0" in str(file):
        return False
    folder, name = os.path.split(file)
    if folder not in known:
        known[folder] = os.path.realpath(folder)
    # Path.is_symlink raises for some names.
    place = os.path.join(known[folder], name)  # noqa: PTH118
    place = os.path.realpath(place) if os.path.islink(place) or name == ".." else place  # noqa: PTH114
    return any(os.path.commonpath([place, root]) == str(root) for root in roots)


def refuse_outside(names: Iterable[str], files: Iterable[Path], root: Path, where: str, fix: str) -> None:
    """Check that the files that a table names are below the folder of the data.

    Args:
        names: how the table names the files, for the message.
        files: the files.
        root: the folder of the data.
        where: the table.
        fix: what the user can do.

    Raises:
        DataError: some files are outside; the message has the first few names.

    Example:
        >>> refuse_outside(["a.png"], [Path("zoo/a.png")], Path("zoo"), "zoo/metadata.csv", "move it.")
    """
    roots, known = [resolved(root)], dict[str, str]()
    pairs = zip(names, files, strict=True)
    outside = [name for name, file in pairs if not is_inside(file, roots, known)]
    if outside:
        raise DataError(
            f"The images that {where} names must be inside of {printable(root)}, also behind symbolic links",
            got=f"{len(outside)} outside: {first_few([printable(name) for name in outside])}",
            fix=fix,
        )


def refuse_special(file: Path) -> None:
    """Check that a path is no pipe, socket or device, which would never end when it is opened.

    Raises:
        DataError: it is one.

    Example:
        >>> refuse_special(Path(__file__))
    """
    kind = kind_of(file)
    if kind not in (None, "a folder"):
        raise DataError(
            f"{printable(file)} must be a regular file", got=str(kind), fix="save its content to a file."
        )


def named_files(rows: datasets.Dataset, column: str) -> dict[int, str]:
    """The paths in the cells of an image column that have no bytes, by row.

    Example:
        >>> cells = [{"bytes": b"a", "path": "0.png"}, {"bytes": None, "path": "1.png"}]
        >>> named_files(datasets.Dataset.from_dict({"image": cells}), "image")
        {1: '1.png'}
    """
    cells = rows.data.column(column)
    if not pyarrow.types.is_struct(cells.type) or not {"bytes", "path"} <= {f.name for f in cells.type}:
        return {}
    empty_N = pyarrow.compute.is_null(pyarrow.compute.struct_field(cells, "bytes"))
    rows_M = pyarrow.compute.indices_nonzero(empty_N)
    paths = pyarrow.compute.struct_field(cells, "path").take(rows_M).to_pylist()
    return {row: str(path) for row, path in zip(rows_M.to_pylist(), paths, strict=True) if path is not None}


def place_files(rows: datasets.Dataset, root: Path, where: str) -> datasets.Dataset:
    """Make the paths in cells without bytes absolute; they are relative to the folder of the data.

    Args:
        rows: the table.
        root: the folder of the data.
        where: the table, for the message.

    Raises:
        DataError: a path leads out of the folder.

    Example:
        >>> rows = datasets.Dataset.from_dict({"image": [{"bytes": None, "path": "a.png"}]})
        >>> place_files(rows, Path("/zoo"), "zoo.parquet")["image"][0]["path"]
        '/zoo/a.png'
    """
    fix = "store the bytes of the images in the table, or name the files in a list: --data list.csv."
    for name in rows.column_names:
        paths = named_files(rows, name)
        if not paths:
            continue
        files = {row: Path(os.path.abspath(root)) / path for row, path in paths.items()}  # noqa: PTH100
        refuse_outside(paths.values(), files.values(), root, where, fix)
        # An image without bytes takes little memory, so such a table is copied.
        cells, feature = list(_placed(rows, name, files)), rows.features[name]
        rows = rows.add_column(PLACED, cells, feature=feature).remove_columns([name])
        rows = rows.rename_column(PLACED, name)
    return rows


def _placed(rows: datasets.Dataset, name: str, files: Mapping[int, Path]) -> Iterator[dict[str, Any]]:
    for row, cell in enumerate(rows.data.column(name).to_pylist()):
        yield cell | {"path": str(files[row])} if row in files else cell
