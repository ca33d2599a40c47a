"""Open the layouts of ImageNet: Tiny ImageNet, and held-out images in one folder with a file of labels."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import datasets

from richkd.core.errors import DataError
from richkd.core.logs import logger_of
from richkd.core.user_files import read_text
from richkd.data.class_text import normalized
from richkd.data.classes import clean_name
from richkd.data.columns import Columns
from richkd.data.formats.listing_files import IMAGE, IMAGE_NAMES, LABEL, LABEL_NAMES, Listing, read_listing
from richkd.data.formats.listings import tables_of, whole_numbers
from richkd.data.formats.scan import contents, file_table, first_few, is_image

# Kaggle's file of labels: the class, then boxes.
BOXES = "PredictionString"
TINY_COLUMNS = (IMAGE, LABEL, "x", "y", "h", "w")

logger = logger_of(__name__)


def is_tiny_imagenet(place: Path) -> bool:
    """Whether a folder has the layout of Tiny ImageNet: ``wnids.txt`` and ``train/<wnid>/images/``.

    Example:
        >>> is_tiny_imagenet(Path("no-such-folder"))
        False
    """
    return (place / "wnids.txt").is_file() and any(place.glob("train/*/images"))


def open_tiny_imagenet(place: Path) -> dict[str, datasets.Dataset]:
    """Open Tiny ImageNet as it is downloaded.

    Classes are in the order of their WordNet ids. Their names are those of ``words.txt`` (the first synonym)
    if it has a different one for each class, else the ids. The test images have no labels and are left out.

    Raises:
        DataError: a class without images, or an image of ``val_annotations.txt`` that does not exist.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     place = Path(folder)
        ...     for file in ("wnids.txt", "train/n01/images/n01_0.JPEG", "val/images/val_0.JPEG"):
        ...         (place / file).parent.mkdir(parents=True, exist_ok=True)
        ...         (place / file).touch()
        ...     size = (place / "val/val_annotations.txt").write_text("val_0.JPEG\\tn01\\t0\\t0\\t62\\t57\\n")
        ...     {name: table["file"][:] for name, table in open_tiny_imagenet(place).items()}
        {'train': ['train/n01/images/n01_0.JPEG'], 'val': ['val/images/val_0.JPEG']}
    """
    ids = [folder.name for folder in contents(place / "train").folders]
    listed = read_text(place / "wnids.txt", DataError, "The list of classes", "copy it again.").split()
    lost = [one for one in listed if one not in ids]
    if lost:
        rule = f"Every class of {place / 'wnids.txt'} must have a folder in train"
        raise DataError(rule, got=f"{len(lost)} missing: {first_few(lost)}", fix="add these folders.")
    names = _names(place / "words.txt", ids)
    tables = {"train": _tiny_split(place / "train", ids, names, place)}
    annotations = place / "val" / "val_annotations.txt"
    if annotations.is_file():
        listing = read_listing(annotations, names=TINY_COLUMNS)
        files = [f"val/images/{name}" for name in listing.columns[IMAGE]]
        listing = replace(listing, columns={IMAGE: files, LABEL: listing.columns[LABEL]})
        tables["val"] = _named(listing, dict(zip(ids, names, strict=True)), place, "val")
    elif (place / "val").is_dir():
        tables["val"] = _tiny_split(place / "val", ids, names, place)
    if (place / "test").is_dir():
        logger.warning("%s: the test images have no labels and are left out", place)
    return tables


def _names(words: Path, ids: Sequence[str]) -> list[str]:
    """The names of classes from a file with a line ``wnid<tab>name, synonym, …`` for each of them."""
    if not words.is_file():
        return list(ids)
    text = read_text(words, DataError, "The names of classes", "save it as UTF-8 text.")
    synonyms = dict(line.split("\t", 1) for line in text.split("\n") if "\t" in line)
    names = [synonyms.get(one, "").split(",")[0].strip() for one in ids]
    if "" in names or len({clean_name(name) for name in names}) < len(names):
        logger.warning("%s: has no different name for each class, so classes keep their ids", words)
        return list(ids)
    return names


def _tiny_split(folder: Path, ids: Sequence[str], names: Sequence[str], root: Path) -> datasets.Dataset:
    """The images of ``<wnid>/images/`` or of ``<wnid>/``."""
    files, labels = list[Path](), list[int]()
    for label, one in enumerate(ids):
        inner = folder / one / "images"
        home = inner if inner.is_dir() else folder / one
        members = [file for file in contents(home).files if is_image(file)] if home.is_dir() else []
        if not members and folder.name == "train":
            raise DataError(
                f"Every class of {folder} must have images", got=f"none in {home}", fix="add them."
            )
        files += members
        labels += [label] * len(members)
    return file_table(files, labels, names, root)


def _named(listing: Listing, name_of: dict[str, str], root: Path, split: str) -> datasets.Dataset:
    """The images of a listing, whose labels are replaced by names of classes."""
    labels = listing.columns[LABEL]
    unknown = [row for row, label in enumerate(labels) if label and label not in name_of]
    if unknown:
        raise DataError(
            f"Every label in {listing.file} must be a class of the training images",
            got=f"{labels[unknown[0]]!r} in {listing.lines_of(unknown)}",
            fix="write names of class folders, or their positions from 0 in alphabetical order.",
        )
    columns = {IMAGE: listing.columns[IMAGE], LABEL: [name_of.get(label or "") for label in labels]}
    rows = tables_of(replace(listing, columns=columns), Columns(), split=split, root=root)[split]
    return rows.cast_column(LABEL, datasets.ClassLabel(names=list(name_of.values())))


def find_annotation(folder: Path, files: Iterable[Path]) -> Listing | None:
    """The file of labels of images that lie in one folder: the one whose first image is in the folder.

    Args:
        folder: the folder of images.
        files: the files among which it is looked for.

    Raises:
        DataError: several such files.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     (Path(folder) / "val_0.JPEG").touch()
        ...     file = Path(folder) / "val.txt"
        ...     size = file.write_text("val_0.JPEG 65\\n")
        ...     find_annotation(Path(folder), [file]).columns
        {'image': ['val_0.JPEG'], 'label': ['65']}
    """
    files_of = [file for file in contents(folder).files if is_image(file)]
    names = {normalized(name) for file in files_of for name in (file.name, file.stem)}
    listings = []
    for file in files:
        if file.suffix.lower() in (".csv", ".tsv", ".txt"):
            try:
                listing = read_listing(file)
                images = listing.columns[listing.column(IMAGE_NAMES) or ""]
                labels = listing.columns[listing.column(LABEL_NAMES) or ""]
            except (DataError, KeyError):
                continue
            if images and normalized(Path(images[0] or "").name) in names:
                if BOXES in listing.columns:
                    labels = [(text or "").partition(" ")[0] for text in labels]
                listings.append(replace(listing, columns={IMAGE: images, LABEL: labels}))
    if len(listings) > 1:
        got = first_few([listing.file.name for listing in listings])
        raise DataError(f"One file must have the labels of {folder}", got=got, fix="keep only one of them.")
    return listings[0] if listings else None


def open_annotated(
    folder: Path, listing: Listing, root: Path, split: str, class_names: Sequence[str] | None
) -> datasets.Dataset:
    """Open images in one folder whose labels are in a file.

    Args:
        folder: the folder of images.
        listing: the file of labels, from `find_annotation`.
        root: the data folder, to which keys are relative.
        split: name of the split.
        class_names: classes of the training images, if there are some. Integers that are not their names are
            positions of them, from 0.

    Raises:
        DataError: an image that does not exist or has no label, a label that is no class, or positions that
            seem to count from 1.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as name:
        ...     root = Path(name)
        ...     (root / "val").mkdir()
        ...     (root / "val" / "a.JPEG").touch()
        ...     listing = Listing(root / "val.txt", {"image": ["a.JPEG"], "label": ["1"]}, [1])
        ...     table = open_annotated(root / "val", listing, root, "val", ["n01", "n02"])
        >>> table.features["label"].int2str(table["label"][:]), table["file"][:]
        (['n02'], ['val/a.JPEG'])
    """
    files = [
        f"{folder.relative_to(root).as_posix()}/{Path(name or '').name}" for name in listing.columns[IMAGE]
    ]
    labels = [normalized(label) if label else label for label in listing.columns[LABEL]]
    listing = replace(listing, columns={IMAGE: files, LABEL: labels})
    if class_names is None:
        return tables_of(listing, Columns(), split=split, root=root)[split]
    names = {name: name for name in class_names}
    if not set(labels) <= names.keys() and isinstance(whole_numbers(labels)[0], int):
        _refuse_counted_from_one(listing, len(class_names))
        names = {str(position): name for position, name in enumerate(class_names)}
    return _named(listing, names, root, split)


def _refuse_counted_from_one(listing: Listing, classes: int) -> None:
    """Refuse positions that count from 1, or that may: all but the first class have images then."""
    present = set(whole_numbers(listing.columns[LABEL]))
    if len(present) < 2 or 0 in present or not (classes in present or present >= set(range(1, classes))):
        return
    raise DataError(
        f"Integer labels in {listing.file} must be positions of classes that count from 0",
        got=f"labels 1 to {max(number for number in present if isinstance(number, int))}, and none is 0",
        fix="subtract 1 from all labels; if there are really no images of the first class, write names of "
        "class folders instead of positions.",
    )
