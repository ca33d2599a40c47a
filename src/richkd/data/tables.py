"""Open tables of images: folders of class folders, parquet files, or data sets of the Hugging Face hub."""

from __future__ import annotations

import difflib
import hashlib
import logging
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import datasets
import pyarrow.parquet

from richkd.core.errors import DataError
from richkd.data.classes import check_same_classes
from richkd.data.images import IMAGE_SUFFIXES

SPLIT_NAMES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
# Name of the only table of a source that is not divided into splits.
WHOLE = "data"
METADATA_SUFFIXES = frozenset({".txt", ".json", ".csv"})
# Files and folders that operating systems create.
SYSTEM_FILES = frozenset({"Thumbs.db", "desktop.ini", "__MACOSX"})
LAYOUT = "one folder per class, or train/, val/ and test/ folders that each hold one folder per class."

logger = logging.getLogger(__name__)


def open_tables(path: str, *, exclude: Sequence[Path] = ()) -> dict[str, datasets.Dataset]:
    """Open the tables of a data source. Images are not decoded.

    Args:
        path: a folder of class folders, a folder or file of parquet, or a name on the Hugging Face hub.
        exclude: files and folders inside ``path`` that do not belong to the data set.

    Returns:
        Tables by split ("train", "val", "test"), or one table named `WHOLE` if the source is not divided
        into splits.

    Raises:
        DataError: the source does not exist, cannot be read, has no images, or has an ambiguous layout.
        ClassError: parquet files of one split with different classes.

    Example:
        >>> import tempfile
        >>> from PIL import Image
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for name in ("train/ant", "train/bee", "test/ant", "test/bee"):
        ...         (Path(folder) / name).mkdir(parents=True)
        ...         Image.new("RGB", (4, 4)).save(Path(folder) / name / "0.png")
        ...     {name: table["file"][:] for name, table in open_tables(folder).items()}
        {'test': ['test/ant/0.png', 'test/bee/0.png'], 'train': ['train/ant/0.png', 'train/bee/0.png']}
    """
    place = Path(path).expanduser()
    if place.is_file() and place.suffix == ".parquet":
        return {WHOLE: _open_parquet([place])}
    if not place.exists():
        return _open_hub(path)
    if not place.is_dir():
        rule = f"{path} must be a folder or a parquet file"
        raise DataError(rule, got=f"a file named {place.name}", fix=f"provide {LAYOUT}")
    excluded = {other.expanduser().resolve() for other in exclude}
    folders = [folder for folder in _visible(place)[0] if folder.resolve() not in excluded]
    parquet = _parquet_splits(place, folders, excluded)
    if parquet:
        return {name: _open_parquet(files) for name, files in parquet.items()}
    splits = _split_folders(path, folders)
    if not splits:
        return {WHOLE: _open_folder(place, folders, place)}
    return {name: _open_folder(folder, _visible(folder)[0], place) for name, folder in splits.items()}


def _split_folders(path: str, folders: list[Path]) -> dict[str, Path]:
    """Folders by split; empty if the folders are those of classes."""
    named = {folder: SPLIT_NAMES.get(folder.name.lower(), "") for folder in folders}
    # A class may have the name "train": its folder then contains images, not folders.
    divided = any(name and _visible(folder)[0] for folder, name in named.items())
    if not folders or not (divided or all(named.values())):
        return {}
    splits: dict[str, Path] = {}
    for folder, name in named.items():
        if name in splits:
            rule = f"{path} must have one folder for each split"
            raise DataError(rule, got=f"{splits[name].name} and {folder.name}", fix="merge or rename them.")
        if name:
            splits[name] = folder
        elif _holds_images(folder):
            rule = f"{path} must have no other folder of images besides train, val and test"
            raise DataError(rule, got=folder.name, fix="move it elsewhere, or rename it to a split.")
    return splits


def _visible(folder: Path) -> tuple[list[Path], list[Path]]:
    """The folders and the files in a folder, sorted by name, without hidden files and system files."""
    with os.scandir(folder) as entries:
        names = sorted(
            (e.name, e.is_dir()) for e in entries if e.name[0] != "." and e.name not in SYSTEM_FILES
        )
    folders = [folder / name for name, is_dir in names if is_dir]
    return folders, [folder / name for name, is_dir in names if not is_dir]


def _is_image(file: Path) -> bool:
    return file.suffix.lower() in IMAGE_SUFFIXES


def _holds_images(folder: Path) -> bool:
    folders, files = _visible(folder)
    return any(map(_is_image, files)) or any(map(_holds_images, folders))


def _open_folder(folder: Path, classes: list[Path], root: Path) -> datasets.Dataset:
    """A table of the image files in class folders; classes are in alphabetical order."""
    loose = [file.name for file in _visible(folder)[1] if _is_image(file)]
    if loose or not classes:
        got = f"images outside of any class folder: {first_few(loose)}" if loose else "no folders"
        raise DataError(f"{folder} must contain one folder per class", got=got, fix=f"provide {LAYOUT}")
    images = _class_images(folder, classes, root)
    files = [file for members in images.values() for file in members]
    table = {
        "image": [{"bytes": None, "path": str(file)} for file in files],
        "label": [label for label, members in enumerate(images.values()) for _ in members],
        "file": [file.relative_to(root).as_posix() for file in files],
    }
    label = datasets.ClassLabel(names=list(images))
    features = {"image": datasets.Image(decode=False), "label": label, "file": datasets.Value("string")}
    return datasets.Dataset.from_dict(table, features=datasets.Features(features))


def _class_images(folder: Path, classes: list[Path], root: Path) -> dict[str, list[Path]]:
    """The image files of each class. Nested folders, files of other types and empty folders are errors."""
    images: dict[str, list[Path]] = {}
    nested: list[str] = []
    foreign: list[str] = []
    for class_folder in classes:
        inner, files = _visible(class_folder)
        images[class_folder.name] = [file for file in files if _is_image(file)]
        nested += [str(path.relative_to(root)) for path in inner]
        others = (
            file for file in files if not _is_image(file) and file.suffix.lower() not in METADATA_SUFFIXES
        )
        foreign += [str(file.relative_to(root)) for file in others]
    if nested:
        rule = f"Images must be directly in their class folders: {folder}"
        got = f"{len(nested)} folders inside class folders: {first_few(nested)}"
        raise DataError(rule, got=got, fix=f"provide {LAYOUT}")
    if foreign:
        rule = f"Class folders of {folder} must contain only images"
        got = f"{len(foreign)} files of other types: {first_few(foreign)}"
        raise DataError(rule, got=got, fix="convert or remove these files.")
    empty = [name for name, files in images.items() if not files]
    if empty:
        rule = f"Every class folder of {folder} must contain images"
        got = f"{len(empty)} empty: {first_few(empty)}"
        raise DataError(rule, got=got, fix="add images, or remove the folder.")
    return images


def _parquet_splits(place: Path, folders: list[Path], excluded: set[Path]) -> dict[str, list[Path]]:
    """Parquet files by split, according to their names (``train-00000-of-00003``) or their folders."""
    inner = [folder for folder in folders if folder.name.lower() in (*SPLIT_NAMES, "data")]
    result: dict[str, list[Path]] = {}
    for folder in [place, *inner]:
        for file in sorted(folder.glob("*.parquet")):
            words = re.findall(r"[a-z]+", file.stem.lower())[:1] + [folder.name.lower()] * (folder != place)
            name = next((SPLIT_NAMES[word] for word in words if word in SPLIT_NAMES), WHOLE)
            if file.resolve() not in excluded:
                result.setdefault(name, []).append(file)
    if WHOLE in result and len(result) > 1:
        rule = f"Either all or none of the parquet files in {place} must be named after their split"
        got = f"{first_few([file.name for file in result[WHOLE]])} without a split name"
        raise DataError(rule, got=got, fix="start every file name with train-, validation- or test-.")
    return result


def _open_parquet(files: list[Path]) -> datasets.Dataset:
    stamp = _check_parquet(files)
    # The loader caches a file by path and modification time, which a replaced file may share.
    name = f"richkd-{stamp[:16]}"
    try:
        return datasets.load_dataset("parquet", name, data_files=[str(file) for file in files], split="train")
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        cause = error.__cause__ or error
        got = f"{type(cause).__name__}: {cause}"
        rule = f"The parquet files of {files[0].parent} must open as one table"
        raise DataError(rule, got=got, fix="write all files with the same columns.") from error


def _check_parquet(files: list[Path]) -> str:
    """Check that all files can be read and have the same classes; a hash of their paths, sizes and times."""
    names: dict[str, list[str]] = {}
    stamp = hashlib.sha256()
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
        status = file.stat()
        stamp.update(
            f"{file.resolve()} {status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}\n".encode()
        )
    if not images:
        raise DataError(f"{files[0]} must contain images", got="no rows", fix="add images to it.")
    return stamp.hexdigest()


def _open_hub(path: str) -> dict[str, datasets.Dataset]:
    result = load_hub(path)
    if len(result) == 1 and not SPLIT_NAMES.get(next(iter(result)).lower()):
        return {WHOLE: next(iter(result.values()))}
    splits = {SPLIT_NAMES.get(name.lower(), ""): rows for name, rows in result.items()}
    if splits.pop("", None) is not None:
        logger.warning(
            "%s: only the train, validation and test splits are used, not all of %s", path, ", ".join(result)
        )
    return splits


def load_hub(path: str) -> dict[str, datasets.Dataset]:
    """Open all splits of a data set of the Hugging Face hub.

    Args:
        path: name of the data set, such as ``"uoft-cs/cifar100"``.

    Returns:
        Tables by the names of the splits on the hub.

    Raises:
        DataError: no such data set, no network, or ``path`` is written like a local folder, which does not
            exist. The message lists local folders with similar names.

    Example:
        >>> try:
        ...     load_hub("./no-such-folder")
        ... except DataError as error:
        ...     error.rule
        'The data folder ./no-such-folder must exist'
    """
    parent = Path(path).expanduser().parent
    near = [folder.name for folder in _visible(parent)[0]] if parent.is_dir() else []
    close = difflib.get_close_matches(Path(path).name, near, n=3, cutoff=0.5)
    hint = f" Similar folders: {', '.join(str(parent / name) for name in close)}." if close else ""
    if re.match(r"[/~.]", path) or path.count("/") > 1 or ("/" in path and parent.is_dir()) or "\\" in path:
        raise DataError(
            f"The data folder {path} must exist", got="no such folder", fix=f"check the path.{hint}"
        )
    try:
        return dict(datasets.load_dataset(path))
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        raise DataError(
            f"'{path}' is no local folder and cannot be opened as a data set of the Hugging Face hub",
            got=str(error).splitlines()[0],
            fix=f"check the name and the network, or set the path of a local folder.{hint}",
        ) from error


@contextmanager
def quiet() -> Iterator[None]:
    """Disable the progress bars of the ``datasets`` library, which are a setting of the whole process.

    Example:
        >>> with quiet():
        ...     datasets.are_progress_bars_disabled()
        True
    """
    was_silent = datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if not was_silent:
            datasets.enable_progress_bars()


def first_few(names: Sequence[str]) -> str:
    """The first five names of a list, for error messages.

    Example:
        >>> first_few(["a", "b"]), first_few(list("abcdefg"))
        ('a, b', 'a, b, c, d, e and 2 more')
    """
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
