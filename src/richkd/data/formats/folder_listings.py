"""Find the listings of a data folder: ``metadata.csv``, ``train.csv``, and those that are not used."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import datasets

from richkd.core.errors import DataError
from richkd.core.logs import logger_of
from richkd.core.presence import resolved
from richkd.data.columns import Columns
from richkd.data.formats.class_folders import split_folders_of
from richkd.data.formats.listing_files import (
    DETECTED_SUFFIXES,
    IMAGE_NAMES,
    LABEL_NAMES,
    Listing,
    read_listing,
)
from richkd.data.formats.scan import WHOLE, contents, first_few, is_image, split_of, walk

# The name that image folders of the Hugging Face hub give to their listing.
METADATA = "metadata"

logger = logger_of(__name__)


def find_listings(place: Path, columns: Columns, excluded: set[Path]) -> dict[str, Path]:
    """The listings of a data folder by split.

    These are ``metadata.csv`` or ``metadata.jsonl`` in the folder (for all images: `WHOLE`) or in its split
    folders, and files named after splits such as ``train.csv``. A listing has a column of images and a column
    of labels; if that of train has both, those of other splits may lack the labels.

    Args:
        place: the data folder.
        columns: names of columns that the user gave.
        excluded: files and folders that do not belong to the data set.

    Raises:
        DataError: two listings of one split, or a listing that cannot be read.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for name in ("train.csv", "test.csv", "prices.csv"):
        ...         size = (Path(folder) / name).write_text("image,label\\n")
        ...     listings = find_listings(Path(folder), Columns(), set())
        >>> {split: file.name for split, file in listings.items()}
        {'test': 'test.csv', 'train': 'train.csv'}
    """
    whole = _one(WHOLE, [file for file in _metadata(place, excluded) if _lists(file, columns)])
    if whole is not None:
        return {WHOLE: whole}
    named = _named_after_splits(place, excluded)
    labeled = {split: [file for file in files if _lists(file, columns)] for split, files in named.items()}
    if labeled.get("train"):
        for split, files in named.items():
            labeled[split] = labeled[split] or [file for file in files if _lists(file, columns, labels=False)]
    listings = {split: _one(split, files) for split, files in labeled.items()}
    return {split: file for split, file in listings.items() if file is not None}


def _named_after_splits(place: Path, excluded: set[Path]) -> dict[str, list[Path]]:
    """The files that may be listings of a split, because of their name or of their folder's name."""
    named: dict[str, list[Path]] = {}
    for split, folder in split_folders_of(contents(place).folders).items():
        if resolved(folder) not in excluded:
            named.setdefault(split, []).extend(_metadata(folder, excluded))
    for file in _listings_in(place, excluded):
        split_name = split_of(file.stem)
        if split_name:
            named.setdefault(split_name, []).append(file)
    return named


def _listings_in(folder: Path, excluded: set[Path]) -> list[Path]:
    return [
        file
        for file in contents(folder).files
        if file.suffix.lower() in DETECTED_SUFFIXES and resolved(file) not in excluded
    ]


def _metadata(folder: Path, excluded: set[Path]) -> list[Path]:
    return [file for file in _listings_in(folder, excluded) if file.stem == METADATA]


def _one(split: str, files: Sequence[Path]) -> Path | None:
    if len(files) > 1:
        rule = f"{files[0].parent} must have one listing for each split"
        got = f"{first_few([file.name for file in files])} for {'all images' if split == WHOLE else split}"
        raise DataError(rule, got=got, fix="remove or rename one of them.")
    return files[0] if files else None


def _lists(file: Path, columns: Columns, labels: bool = True) -> bool:
    """Whether the first line of a file names a column of images, and one of labels."""
    head = read_listing(file, first=True)
    columns = columns.among(head.columns)
    return _has(head, IMAGE_NAMES, columns.image) and (not labels or _has(head, LABEL_NAMES, columns.label))


def _has(head: Listing, names: Sequence[Sequence[str]], asked: str | None) -> bool:
    if asked is not None:
        return asked in head.columns
    try:
        return head.column(names) is not None
    except DataError:
        # Several columns could be meant; the listing is refused with their names when it is opened.
        return True


def unused_listings(place: Path, folders: Iterable[Path], used: set[Path], columns: Columns) -> list[Path]:
    """The files that look like listings and are not used.

    Args:
        place: the data folder.
        folders: its split folders, which are looked into as well.
        used: listings that are used, and files that do not belong to the data set.
        columns: names of columns that the user gave.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     size = (Path(folder) / "labels.csv").write_text("image,label\\n")
        ...     [file.name for file in unused_listings(Path(folder), [], set(), Columns())]
        ['labels.csv']
    """
    unused = []
    for file in (file for folder in (place, *folders) for file in _listings_in(folder, used)):
        try:
            if _lists(file, columns):
                unused.append(file)
        except DataError:
            continue
    return unused


def warn_of_unused(place: Path, unused: Sequence[Path]) -> None:
    """Log one line with `unused_listings`, if there are some.

    Example:
        >>> warn_of_unused(Path("zoo"), [])
    """
    if unused:
        names = first_few([file.relative_to(place).as_posix() for file in unused])
        message = "%s: not used, although they look like lists of labels: %s (open one with --data %s)"
        logger.warning(message, place, names, unused[0])


def warn_of_unlisted(place: Path, tables: Mapping[str, datasets.Dataset], excluded: set[Path]) -> None:
    """Log one line if images in a data folder are in none of its tables.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     warn_of_unlisted(Path(folder), {}, set())
    """
    cells = (cell for rows in tables.values() for cell in _cells(rows))
    listed = {str(resolved(cell["path"] or "")) for cell in cells}
    images = (file for entries in walk(place, excluded) for file in entries.files if is_image(file))
    unlisted = [file for file in images if str(resolved(file)) not in listed]
    if unlisted:
        first = unlisted[0].relative_to(place).as_posix()
        logger.warning("%s: %d images are in no list of labels, such as %s", place, len(unlisted), first)


def _cells(rows: datasets.Dataset) -> list[dict[str, str | None]]:
    name = next(name for name, feature in rows.features.items() if isinstance(feature, datasets.Image))
    return list(rows[name][:])
