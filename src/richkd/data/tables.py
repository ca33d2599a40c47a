"""Open a data source as tables: find out what lies at a path, and give it to the module of its format."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import datasets

from richkd.core.errors import ConfigError, DataError
from richkd.core.home import expanded
from richkd.core.logs import logger_of
from richkd.core.presence import resolved
from richkd.data.columns import DETECTED, Columns
from richkd.data.formats.class_folders import (
    open_class_folders,
    split_folders,
    split_folders_of,
)
from richkd.data.formats.folder_listings import (
    find_listings,
    unused_listings,
    warn_of_unlisted,
    warn_of_unused,
)
from richkd.data.formats.hub import open_hub
from richkd.data.formats.imagenet import (
    find_annotation,
    is_tiny_imagenet,
    open_annotated,
    open_tiny_imagenet,
)
from richkd.data.formats.listing_files import LISTING_SUFFIXES
from richkd.data.formats.listings import open_listing
from richkd.data.formats.outside import refuse_special
from richkd.data.formats.parquet import PARQUET, may_hold_images, open_parquet
from richkd.data.formats.scan import (
    LAYOUT,
    WHOLE,
    contents,
    files_by_split,
    first_few,
    holds_images,
    is_image,
    warn_of_hidden,
)
from richkd.data.formats.shards import SUFFIX, open_shards, shards_of_pattern

logger = logger_of(__name__)


def open_tables(
    path: str,
    *,
    exclude: Sequence[Path] = (),
    columns: Columns = DETECTED,
    nested: bool = False,
    labeled: bool = True,
) -> dict[str, datasets.Dataset]:
    """Open the tables of a data source. Images are not decoded.

    Args:
        path: a folder of class folders; a listing (CSV, TSV, JSON) or a folder with listings; a folder, file
            or pattern of tar shards; a folder or file of parquet; or a name on the Hugging Face hub.
        exclude: files and folders inside ``path`` that do not belong to the data set.
        columns: names of columns that the user gave.
        nested: whether class folders may be nested.
        labeled: whether a listing must have a label column.

    Returns:
        Tables by split ("train", "val", "test"), or one table named `WHOLE` if the source is not divided
        into splits.

    Raises:
        DataError: the path is empty; or the source does not exist, cannot be read, has no images, or has an
            ambiguous layout.
        ClassError: parquet files of one split with different classes.
        ConfigError: ``nested`` for a source that is no folder of class folders.

    Example:
        >>> import tempfile
        >>> from PIL import Image
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for name in ("train/ant", "train/bee", "test/ant", "test/bee"):
        ...         (Path(folder) / name).mkdir(parents=True)
        ...         Image.new("RGB", (4, 4)).save(Path(folder) / name / "0.png")
        ...     {name: table["file"][:] for name, table in open_tables(folder).items()}
        {'train': ['train/ant/0.png', 'train/bee/0.png'], 'test': ['test/ant/0.png', 'test/bee/0.png']}
    """
    if not path.strip():
        # An empty path, as of an unset variable of the shell, would be the current folder.
        raise DataError(
            "The path of a data source must not be empty",
            got=repr(path),
            fix="give a folder, a file, or a name on the Hugging Face hub.",
        )
    place = expanded(path)
    if os.path.isdir(place):  # noqa: PTH112 - Path.is_dir raises for some names
        # Path.resolve would raise an error for a link to itself.
        excluded = {resolved(expanded(other)) for other in exclude}
        return _open_directory(path, place, excluded, columns, nested)
    _refuse_nested(nested, path)
    if os.path.isfile(place):  # noqa: PTH113
        return _open_file(path, place, columns, labeled)
    refuse_special(place)
    shards = shards_of_pattern(path)
    if shards is not None:
        return {name: open_shards(files, columns) for name, files in shards.items()}
    return open_hub(path)


def is_table(path: str) -> bool:
    """Whether `open_tables` reads images from files at a path, rather than from folders or from the hub.

    Example:
        >>> is_table("no-such-folder")
        False
    """
    place = expanded(path)
    if os.path.isdir(place):  # noqa: PTH112 - Path.is_dir raises for some names
        return bool(_parquet(place, (), set()) or _shards(place, (), set()))
    return os.path.isfile(place) or shards_of_pattern(path) is not None  # noqa: PTH113


def _open_file(path: str, place: Path, columns: Columns, labeled: bool) -> dict[str, datasets.Dataset]:
    suffix = place.suffix.lower()
    if suffix == PARQUET:
        return {WHOLE: open_parquet([place], place.parent)}
    if suffix == SUFFIX:
        return {WHOLE: open_shards([place], columns)}
    if suffix in LISTING_SUFFIXES:
        return open_listing(place, columns, labeled=labeled)
    kinds = ", ".join((PARQUET, SUFFIX, *LISTING_SUFFIXES))
    rule = f"{path} must be a folder or a file of type {kinds}"
    raise DataError(rule, got=f"a file named {place.name}", fix=f"provide {LAYOUT}")


def _refuse_nested(nested: bool, path: str) -> None:
    if nested:
        raise ConfigError(
            "Setting 'data.nested_classes' has no effect on data without class folders",
            got=path,
            fix="remove data.nested_classes.",
        )


def _open_directory(
    path: str, place: Path, excluded: set[Path], columns: Columns, nested: bool
) -> dict[str, datasets.Dataset]:
    folders = [folder for folder in contents(place).folders if resolved(folder) not in excluded]
    parquet = _parquet(place, folders, excluded)
    shards = _shards(place, folders, excluded)
    if parquet or shards:
        _refuse_nested(nested, path)
        opened = {name: open_parquet(files, place) for name, files in parquet.items()}
        return opened or {name: open_shards(files, columns) for name, files in shards.items()}
    if is_tiny_imagenet(place):
        _refuse_nested(nested, path)
        return open_tiny_imagenet(place)
    warn_of_hidden(contents(place).hidden, place)
    listings = find_listings(place, columns, excluded)
    if WHOLE in listings:
        _refuse_nested(nested, path)
        tables = open_listing(listings[WHOLE], columns, within=place)
    else:
        tables = _open_listings(listings, columns, place)
        used = {resolved(file) for file in listings.values()} | excluded
        homes = split_folders_of(folders).values()
        try:
            in_folders = _open_folders(path, place, folders, tables, used, nested=nested)
        except DataError as error:
            unused = unused_listings(place, homes, used, columns)
            if not unused:
                raise
            fix = f"{error.fix} {unused[0]} looks like a list of labels: open it with --data."
            raise type(error)(error.rule, got=error.got, fix=fix) from error
        _refuse_nested(nested and not in_folders, path)
        tables |= in_folders
        warn_of_unused(place, unused_listings(place, homes, used, columns))
    if listings:
        warn_of_unlisted(place, tables, excluded)
    return tables


def _shards(place: Path, folders: Sequence[Path], excluded: set[Path]) -> dict[str, list[Path]]:
    # An archive beside the images that it contained is no shard.
    if not _ending((place, *folders), SUFFIX) or holds_images(place):
        return {}
    return files_by_split(place, folders, SUFFIX, excluded)


def _parquet(place: Path, folders: Sequence[Path], excluded: set[Path]) -> dict[str, list[Path]]:
    # A table beside images that has no images itself, for example of embeddings, is about these images.
    files = [file for file in _ending((place, *folders), PARQUET) if resolved(file) not in excluded]
    if files and not any(map(may_hold_images, files)) and holds_images(place):
        names = first_few([file.relative_to(place).as_posix() for file in files])
        logger.warning("%s: not used, because they have no images: %s", place, names)
        return {}
    return files_by_split(place, folders, PARQUET, excluded)


def _ending(folders: Iterable[Path], suffix: str) -> list[Path]:
    return [file for folder in folders for file in contents(folder).files if file.name.endswith(suffix)]


def _open_listings(
    listings: Mapping[str, Path], columns: Columns, place: Path
) -> dict[str, datasets.Dataset]:
    """The tables of listings of one split each. Beside a listing for training, others may lack labels."""
    tables: dict[str, datasets.Dataset] = {}
    for name, file in listings.items():
        labeled = name == "train" or "train" not in listings
        tables |= open_listing(file, columns, split=name, labeled=labeled, within=place)
    return tables


def _open_folders(
    path: str,
    place: Path,
    folders: Sequence[Path],
    listed: Mapping[str, datasets.Dataset],
    used: set[Path],
    *,
    nested: bool,
) -> dict[str, datasets.Dataset]:
    """The tables of the folders whose split has no listing. Files of labels that are opened join ``used``."""
    if listed:
        splits = {name: folder for name, folder in split_folders_of(folders).items() if name not in listed}
    else:
        splits = split_folders(path, folders)
    if not splits and not listed:
        return {WHOLE: open_class_folders(place, folders, place, nested=nested)}
    tables: dict[str, datasets.Dataset] = {}
    for name in (name for name in ("train", "val", "test") if name in splits):
        folder, entries = splits[name], contents(splits[name])
        warn_of_hidden(entries.hidden, place)
        if name != "train" and not entries.folders and any(map(is_image, entries.files)):
            train = tables.get("train", listed.get("train"))
            rows = _open_flat(place, folder, name, train, used)
            tables |= {} if rows is None else {name: rows}
        else:
            options = {"nested": nested, "may_lack": name != "train"}
            tables[name] = open_class_folders(folder, entries.folders, place, **options)
    return tables


def _open_flat(
    place: Path, folder: Path, split: str, train: datasets.Dataset | None, used: set[Path]
) -> datasets.Dataset | None:
    """Held-out images in one folder with a file of labels; None for test images without labels."""
    files = [file for home in (folder, place) for file in contents(home).files if resolved(file) not in used]
    listing = find_annotation(folder, files)
    if listing is not None:
        used.add(resolved(listing.file))
        label = None if train is None else train.features.get("label")
        names = label.names if isinstance(label, datasets.ClassLabel) else None
        return open_annotated(folder, listing, place, split, names)
    if split == "test" and train is not None:
        logger.warning("%s: the images have no labels and are left out", folder)
        return None
    raise DataError(
        f"{folder} must contain one folder per class, or there must be a file with its labels",
        got="images outside of any class folder",
        fix=f"write {split}.csv with the columns image and label into {place}, or provide {LAYOUT}",
    )
