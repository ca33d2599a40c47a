"""Open listings: files whose lines name an image and its label."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import datasets
import numpy as np

from richkd.core.errors import DataError
from richkd.core.logs import logger_of
from richkd.core.presence import resolved
from richkd.data.class_text import normalized
from richkd.data.columns import KEY_COLUMNS, Columns
from richkd.data.formats.listed_files import find_files, without_parents
from richkd.data.formats.listing_files import (
    FORM,
    IMAGE_NAMES,
    LABEL_NAMES,
    SPLIT_COLUMNS,
    Listing,
    read_listing,
)
from richkd.data.formats.outside import refuse_outside
from richkd.data.formats.scan import SPLIT_NAMES, WHOLE, check_files
from richkd.data.slices import refuse_slices

# Whole numbers, and what a table with missing values makes of them: 3.0.
INTEGER = re.compile(r"(-?(?:0|[1-9][0-9]*))(?:\.0+)?")
# Halves of characters, which JSON can escape and no file can hold.
SURROGATES = re.compile("[\ud800-\udfff]")
INT64 = np.iinfo(np.int64)

logger = logger_of(__name__)


def open_listing(
    file: Path,
    columns: Columns,
    *,
    split: str | None = None,
    labeled: bool = True,
    within: Path | None = None,
) -> dict[str, datasets.Dataset]:
    """Open the images that a file lists, by split.

    The splits are those of a split column, else the first folders of the paths if these are split folders
    (``train/0.png``), else there is one table named `WHOLE`. Paths are relative to the folder of the file;
    see `find_files`. Without a label column, all labels are None.

    Args:
        file: the listing.
        columns: names of its columns, where the user gave them.
        split: the split that all images belong to.
        labeled: whether a label column is required.
        within: the folder that must contain all images, for a listing that was found in a data folder. A
            listing that the user named may name images anywhere.

    Returns:
        Tables by split.

    Raises:
        DataError: a file that cannot be read, a column that is missing or ambiguous, an image that does not
            exist, that is outside of ``within``, that is listed with two labels or in two splits, or that has
            no label while others have.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for name in ("0.png", "1.png", "labels.csv"):
        ...         (Path(folder) / name).touch()
        ...     size = (Path(folder) / "labels.csv").write_text("file,species\\n0.png,ant\\n1.png,bee\\n")
        ...     tables = open_listing(Path(folder) / "labels.csv", Columns())
        >>> tables["data"]["label"][:]
        ['ant', 'bee']
    """
    return tables_of(read_listing(file), columns, split=split, labeled=labeled, within=within)


def tables_of(
    listing: Listing,
    columns: Columns,
    *,
    split: str | None = None,
    labeled: bool = True,
    root: Path | None = None,
    within: Path | None = None,
) -> dict[str, datasets.Dataset]:
    """Tables of the images of a listing that was read; arguments and errors are those of `open_listing`.

    Args:
        root: the folder that paths and keys are relative to; by default that of the listing.
        within: the folder that must contain all images; None if they may be anywhere.

    Example:
        >>> try:
        ...     tables_of(Listing(Path("labels.csv"), {"comment": ["x"]}, [2]), Columns())
        ... except DataError as error:
        ...     error.got
        '0 candidates among the columns: comment'
    """
    columns = columns.among(listing.columns)
    if columns.key in listing.columns:
        _check_text(listing, str(columns.key))
    names = _image_names(listing, columns)
    labels = _labels(listing, columns, labeled=labeled)
    splits = [split] * len(names) if split else _splits(listing, names)
    root = without_parents(root or listing.file.parent)
    files = find_files(listing, names, splits, root)
    if within is not None:
        fix = f"copy them into it, or open the list with --data {listing.file}; it may then name any file."
        refuse_outside(names, files, within, str(listing.file), fix)
    members: dict[str, list[int]] = {}
    for row in _without_repeated(listing, files, labels, splits):
        members.setdefault(splits[row] or WHOLE, []).append(row)
    return {
        name: _table(listing, columns, rows, files, labels, root) for name, rows in sorted(members.items())
    }


def _no_column(listing: Listing, what: str, option: str, names: Sequence[Sequence[str]]) -> DataError:
    return DataError(
        f"One column of {listing.file} must contain the {what}",
        got=f"0 candidates among the columns: {', '.join(listing.columns)}",
        fix=f"name the column with --data.{option}, or rename it, for example to '{names[0][0]}'.",
    )


def _image_names(listing: Listing, columns: Columns) -> list[str]:
    """The names of the images; there is at least one, and none is empty."""
    image_column = listing.column(IMAGE_NAMES, columns.image, "image_column")
    if image_column is None:
        raise _no_column(listing, "images", "image_column", IMAGE_NAMES)
    names = [text or "" for text in listing.columns[image_column]]
    if not names:
        raise DataError(f"{listing.file} must list images", got="no lines besides the first", fix=FORM)
    empty = [row for row, name in enumerate(names) if not name]
    if empty:
        rule = f"Every line of {listing.file} must name an image"
        raise DataError(
            rule, got=f"no name in {listing.lines_of(empty)}", fix="correct or remove these lines."
        )
    return names


def _labels(listing: Listing, columns: Columns, *, labeled: bool) -> Sequence[str | None]:
    """The labels of all rows; None where there is none."""
    column = listing.column(LABEL_NAMES, columns.label, "label_column")
    if column is None and labeled:
        raise _no_column(listing, "labels", "label_column", LABEL_NAMES)
    if column is None:
        return [None] * len(listing.lines)
    _check_text(listing, column)
    return [normalized(text) if text else None for text in listing.columns[column]]


def _check_text(listing: Listing, column: str) -> None:
    values = listing.columns[column]
    rows = [row for row, text in enumerate(values) if text and SURROGATES.search(text)]
    if rows:
        raise DataError(
            f"Column '{column}' of {listing.file} must contain valid Unicode text",
            got=f"{values[rows[0]]!r} in {listing.lines_of(rows)}",
            fix="correct or remove these lines.",
        )


def _splits(listing: Listing, names: Sequence[str]) -> list[str | None]:
    """The split of each row, from a column or from the first folder of its path."""
    column = listing.column(SPLIT_COLUMNS)
    if column is not None:
        values = [(text or "").strip() for text in listing.columns[column]]
        named = [SPLIT_NAMES.get(value.lower()) for value in values]
        unknown = [row for row, name in enumerate(named) if name is None]
        if not unknown:
            return named
        if len(unknown) < len(named):
            rule = f"Column '{column}' of {listing.file} must name the split of every image"
            got = f"{values[unknown[0]]!r} in {listing.lines_of(unknown)}"
            raise DataError(rule, got=got, fix="write train, val or test, or remove these lines.")
        logger.warning("%s: column '%s' names no splits and is not used", listing.file, column)
    folders = [SPLIT_NAMES.get(re.split(r"[/\\]", name)[0].lower()) for name in names]
    if None not in folders and len(set(folders)) > 1:
        return folders
    return [None] * len(names)


def _without_repeated(
    listing: Listing, files: Sequence[Path], labels: Sequence[str | None], splits: Sequence[str | None]
) -> list[int]:
    """The rows without those that repeat an earlier one, as lists of several objects per image have them."""
    first: dict[Path, int] = {}
    for row, file in enumerate(files):
        earlier = first.setdefault(file, row)
        for values, what in ((labels, "label"), (splits, "split")):
            if values[earlier] != values[row]:
                raise DataError(
                    f"An image in {listing.file} can have only one {what}: {file.name}",
                    got=f"{values[earlier]} and {values[row]} in {listing.lines_of([earlier, row])}",
                    fix="remove one of these lines.",
                )
    repeated = len(files) - len(first)
    if repeated:
        logger.warning("%s: %d lines repeat an earlier image and are left out", listing.file, repeated)
    return list(first.values())


def _table(
    listing: Listing,
    columns: Columns,
    rows: Sequence[int],
    files: Sequence[Path],
    labels: Sequence[str | None],
    root: Path,
) -> datasets.Dataset:
    """A table of some rows, whose columns have the names that the user gave, if any."""
    missing = [row for row in rows if labels[row] is None]
    if missing and len(missing) < len(rows):
        raise DataError(
            f"Every image in {listing.file} must have a label",
            got=f"{len(missing)} of {len(rows)} without one: {listing.lines_of(missing)}",
            fix="label these images, or remove their lines.",
        )
    check_files([files[row] for row in rows], str(listing.file))
    image_name, label_name = columns.image or "image", columns.label or "label"
    key_name = next(name for name in KEY_COLUMNS if name not in (image_name, label_name))
    table = {
        image_name: [{"bytes": None, "path": str(files[row])} for row in rows],
        label_name: whole_numbers([labels[row] for row in rows]),
        key_name: keys_of([files[row] for row in rows], root),
    }
    if columns.key is not None and columns.key not in table and columns.key in listing.columns:
        table[columns.key] = [listing.columns[columns.key][row] for row in rows]
    rows_of = datasets.Dataset.from_dict(table)
    refuse_slices(rows_of, str(listing.file))
    if missing:
        rows_of = rows_of.cast_column(label_name, datasets.Value("string"))
    return rows_of.cast_column(image_name, datasets.Image(decode=False))


def keys_of(files: Sequence[Path], root: Path) -> list[str]:
    """The keys of image files: their paths relative to ``root`` if they are inside, else their paths.

    Keys do not depend on how ``root`` is written: relative or absolute, or through a symbolic link.

    Example:
        >>> keys_of([Path("zoo/ant/0.png"), Path("zoo/1.png").absolute(), Path("/old/0.png")], Path("zoo"))
        ['ant/0.png', '1.png', '/old/0.png']
    """
    roots = (root.absolute(), resolved(root))
    return [_key_of(file, root, roots) for file in files]


def _key_of(file: Path, root: Path, roots: Sequence[Path]) -> str:
    # Almost all files are, and this takes no call of the system.
    if file.is_relative_to(root):
        return file.relative_to(root).as_posix()
    file = file.absolute()
    return next((file.relative_to(one) for one in roots if file.is_relative_to(one)), file).as_posix()


def whole_numbers(labels: Sequence[str | None]) -> Sequence[str | int | None]:
    """Labels as integers, so that 10 comes after 9, if all of them are integers; else as they are.

    Integers that need more than 64 bits, such as long identifiers, are names: tables cannot store them.

    Example:
        >>> whole_numbers(["10", "9.0"]), whole_numbers(["10", "ant"]), whole_numbers(["01", "02"])
        ([10, 9], ['10', 'ant'], ['01', '02'])
    """
    numbers = [_whole(label or "") for label in labels]
    return labels if None in numbers else numbers


def _whole(label: str) -> int | None:
    match = INTEGER.fullmatch(label)
    # Python refuses to read numbers of thousands of digits.
    if match is None or len(match[1]) > len(str(INT64.min)):
        return None
    number = int(match[1])
    return number if INT64.min <= number <= INT64.max else None
