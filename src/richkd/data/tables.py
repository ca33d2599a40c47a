"""Where tables of images come from: class folders, parquet files, or the hub."""

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
# The name of a source that is not split yet.
WHOLE = "data"
METADATA_SUFFIXES = frozenset({".txt", ".json", ".csv"})
LITTER = frozenset({"Thumbs.db", "desktop.ini", "__MACOSX"})
LAYOUT = "one folder per class, or train/, val/ and test/ folders that each hold one folder per class."

logger = logging.getLogger(__name__)


def open_tables(path: str, *, beside: Sequence[Path]) -> dict[str, datasets.Dataset]:
    """The source's tables by split, or one table named ``data`` where it is not split.

    What is ``beside`` may lie inside the folder without being a part of it.
    """
    place = Path(path).expanduser()
    if place.is_file() and place.suffix == ".parquet":
        return {WHOLE: _open_parquet([place])}
    if not place.exists():
        return _open_hub(path)
    if not place.is_dir():
        raise DataError(
            f"{path} must be a folder or a parquet file", got="another file", fix=f"give {LAYOUT}"
        )
    apart = {folder.expanduser().resolve() for folder in beside}
    folders = [folder for folder in _visible(place)[0] if folder.resolve() not in apart]
    parquet = _parquet_splits(place, folders, apart)
    if parquet:
        return {name: _open_parquet(files) for name, files in parquet.items()}
    named = {folder: SPLIT_NAMES.get(folder.name.lower(), "") for folder in folders}
    # A class may be called "train": its folder then holds images, not folders.
    if not (
        (bool(folders) and all(named.values())) or any(name and _visible(f)[0] for f, name in named.items())
    ):
        return {WHOLE: _open_folder(place, folders, place)}
    splits: dict[str, Path] = {}
    for folder, name in named.items():
        if name in splits:
            rule = f"{path} must have one folder for each split"
            raise DataError(rule, got=f"{splits[name].name} and {folder.name}", fix="merge or rename them.")
        if name:
            splits[name] = folder
        elif _holds_images(folder):
            rule = f"Next to train, val and test, {path} must have no other folder of images"
            raise DataError(rule, got=folder.name, fix="move it elsewhere, or rename it to a split.")
    return {name: _open_folder(folder, _visible(folder)[0], place) for name, folder in splits.items()}


def _visible(folder: Path) -> tuple[list[Path], list[Path]]:
    """The folders and the files in a folder, by name, without what systems leave there."""
    with os.scandir(folder) as entries:
        seen = [(e.name, e.is_dir()) for e in entries if e.name[0] != "." and e.name not in LITTER]
    seen.sort()
    return [folder / name for name, is_dir in seen if is_dir], [
        folder / name for name, is_dir in seen if not is_dir
    ]


def _is_image(file: Path) -> bool:
    return file.suffix.lower() in IMAGE_SUFFIXES


def _holds_images(folder: Path) -> bool:
    folders, files = _visible(folder)
    return any(map(_is_image, files)) or any(map(_holds_images, folders))


def _open_folder(folder: Path, classes: list[Path], root: Path) -> datasets.Dataset:
    """A table of the image files in class folders; classes are in alphabetical order."""
    loose = [file.name for file in _visible(folder)[1] if _is_image(file)]
    if loose or not classes:
        got = f"images outside of any class folder: {some(loose)}" if loose else "no folders"
        raise DataError(f"{folder} must hold one folder per class", got=got, fix=f"give {LAYOUT}")
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
        rule = f"Images must lie directly in their class folders: {folder}"
        raise DataError(
            rule, got=f"{len(nested)} folders inside of them: {some(nested)}", fix=f"give {LAYOUT}"
        )
    if foreign:
        rule = f"Class folders of {folder} must hold images only"
        got = f"{len(foreign)} files of other types: {some(foreign)}"
        raise DataError(rule, got=got, fix="convert or remove these files.")
    empty = [name for name, files in images.items() if not files]
    if empty:
        rule = f"Every class folder of {folder} must hold images"
        raise DataError(
            rule, got=f"{len(empty)} empty: {some(empty)}", fix="add images, or remove the folder."
        )
    files = [file for members in images.values() for file in members]
    table = {
        "image": [{"bytes": None, "path": str(file)} for file in files],
        "label": [label for label, members in enumerate(images.values()) for _ in members],
        "file": [file.relative_to(root).as_posix() for file in files],
    }
    label = datasets.ClassLabel(names=list(images))
    features = {"image": datasets.Image(decode=False), "label": label, "file": datasets.Value("string")}
    return datasets.Dataset.from_dict(table, features=datasets.Features(features))


def _parquet_splits(place: Path, folders: list[Path], apart: set[Path]) -> dict[str, list[Path]]:
    """Parquet files by split, told by their names (``train-00000-of-00003``) or by their folders."""
    inner = [folder for folder in folders if folder.name.lower() in (*SPLIT_NAMES, "data")]
    result: dict[str, list[Path]] = {}
    for folder in [place, *inner]:
        for file in sorted(folder.glob("*.parquet")):
            words = re.findall(r"[a-z]+", file.stem.lower())[:1] + [folder.name.lower()] * (folder != place)
            name = next((SPLIT_NAMES[word] for word in words if word in SPLIT_NAMES), WHOLE)
            if file.resolve() not in apart:
                result.setdefault(name, []).append(file)
    if WHOLE in result and len(result) > 1:
        rule = f"Either all parquet files of {place} or none must be named by their split"
        got = some([file.name for file in result[WHOLE]])
        raise DataError(rule, got=got, fix="begin every name with train-, validation- or test-.")
    return result


def _open_parquet(files: list[Path]) -> datasets.Dataset:
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
                f"{file} must be a parquet file", got=str(error), fix="write or copy it again."
            ) from error
        # The loader would take the names of the first file for all, whatever order the others have.
        for column, feature in features.items():
            if isinstance(feature, datasets.ClassLabel):
                expected = names.setdefault(column, feature.names)
                check_same_classes(expected, feature.names, where=str(file), reference=str(files[0]))
        status = file.stat()
        stamp.update(
            f"{file.resolve()} {status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}\n".encode()
        )
    if not images:
        raise DataError(f"{files[0]} must hold images", got="no rows", fix="add images to it.")
    # The loader's cache knows a file by path and modification time, which a replaced copy may share.
    name = f"richkd-{stamp.hexdigest()[:16]}"
    try:
        return datasets.load_dataset("parquet", name, data_files=[str(file) for file in files], split="train")
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        cause = error.__cause__ or error
        got = f"{type(cause).__name__}: {cause}"
        rule = f"The parquet files of {files[0].parent} must open as one table"
        raise DataError(rule, got=got, fix="write them again, with the same columns in all.") from error


def _open_hub(path: str) -> dict[str, datasets.Dataset]:
    result = load_hub(path)
    if len(result) == 1 and not SPLIT_NAMES.get(next(iter(result)).lower()):
        return {WHOLE: next(iter(result.values()))}
    splits = {SPLIT_NAMES.get(name.lower(), ""): rows for name, rows in result.items()}
    if splits.pop("", None) is not None:
        logger.warning(
            "Of %s only the train, validation and test splits are used, of: %s", path, ", ".join(result)
        )
    return splits


def load_hub(path: str) -> dict[str, datasets.Dataset]:
    """Every split of a data set of the hub, by the name that it has there."""
    parent = Path(path).expanduser().parent
    near = [folder.name for folder in _visible(parent)[0]] if parent.is_dir() else []
    close = difflib.get_close_matches(Path(path).name, near, n=3, cutoff=0.5)
    hint = f" Near by: {', '.join(str(parent / name) for name in close)}." if close else ""
    if re.match(r"[/~.]", path) or path.count("/") > 1 or ("/" in path and parent.is_dir()) or "\\" in path:
        raise DataError(
            f"The data folder {path} must exist", got="no such folder", fix=f"check the path.{hint}"
        )
    try:
        return dict(datasets.load_dataset(path))
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        raise DataError(
            f"'{path}' is no local folder, and as a name on the Hugging Face hub it could not be opened",
            got=str(error).splitlines()[0],
            fix=f"check the name and the network, or give a local folder.{hint}",
        ) from error


@contextmanager
def quiet() -> Iterator[None]:
    """Without the loader's progress bars, which are switched for the whole process."""
    was_silent = datasets.are_progress_bars_disabled()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        if not was_silent:
            datasets.enable_progress_bars()


def some(names: Sequence[str]) -> str:
    """The first five names of a list, for a message."""
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
