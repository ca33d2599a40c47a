"""Open folders of class folders: every folder is a class, or every folder without inner folders is one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import datasets

from richkd.core.errors import DataError
from richkd.data.class_text import all_normalized, normalized
from richkd.data.file_types import printable
from richkd.data.formats.scan import (
    LAYOUT,
    SPLIT_NAMES,
    contents,
    file_table,
    first_few,
    holds_images,
    is_image,
    warn_of_hidden,
)

# Files of these types in class folders are not images, and no mistakes either.
METADATA_SUFFIXES = frozenset({".txt", ".json", ".csv", ".tsv", ".jsonl"})
NESTED = "or set --data.nested_classes true: every folder without inner folders is then a class."


def split_folders(path: str, folders: Sequence[Path]) -> dict[str, Path]:
    """Folders by split; empty if the folders are those of classes.

    Args:
        path: the data folder, for error messages.
        folders: its folders.

    Raises:
        DataError: two folders of one split, or a folder of images that is no split.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for name in ("train/ant", "test/ant"):
        ...         (Path(folder) / name).mkdir(parents=True)
        ...     list(split_folders(folder, contents(Path(folder)).folders))
        ['test', 'train']
    """
    named = {folder: SPLIT_NAMES.get(folder.name.lower(), "") for folder in folders}
    # A class may have the name "train": its folder then contains images, not folders.
    divided = any(name and contents(folder).folders for folder, name in named.items())
    if not folders or not (divided or all(named.values())):
        return {}
    splits: dict[str, Path] = {}
    for folder, name in named.items():
        if name in splits:
            rule = f"{path} must have one folder for each split"
            raise DataError(rule, got=f"{splits[name].name} and {folder.name}", fix="merge or rename them.")
        if name:
            splits[name] = folder
        elif holds_images(folder):
            rule = f"{path} must have no other folder of images besides train, val and test"
            raise DataError(rule, got=folder.name, fix="move it elsewhere, or rename it to a split.")
    return splits


def split_folders_of(folders: Sequence[Path]) -> dict[str, Path]:
    """The folders that are named after splits, by split.

    Example:
        >>> list(split_folders_of([Path("zoo/Training"), Path("zoo/images")]))
        ['train']
    """
    return {
        SPLIT_NAMES[folder.name.lower()]: folder for folder in folders if folder.name.lower() in SPLIT_NAMES
    }


def open_class_folders(
    folder: Path, classes: Sequence[Path], root: Path, *, nested: bool = False, may_lack: bool = False
) -> datasets.Dataset:
    """Open the image files in class folders; classes are in alphabetical order.

    Args:
        folder: the folder that contains the class folders.
        classes: the class folders.
        root: the data folder, to which keys are relative.
        nested: whether class folders may contain folders. Every folder without inner folders is then a class,
            named by its path relative to ``folder``, such as ``animals/dogs``.
        may_lack: whether class folders may be empty, as in a held-out split.

    Raises:
        DataError: images outside of class folders, no class folders, or class folders that are empty or
            contain folders or files of other types.
        ClassError: two class folders whose names are the same text in two Unicode normal forms.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as name:
        ...     root = Path(name)
        ...     for file in ("dogs/husky/0.png", "cats/0.png"):
        ...         (root / file).parent.mkdir(parents=True)
        ...         (root / file).touch()
        ...     table = open_class_folders(root, contents(root).folders, root, nested=True)
        >>> table.features["label"].names
        ['cats', 'dogs/husky']
    """
    loose = [file.name for file in contents(folder).files if is_image(file)]
    if loose or not classes:
        got = f"images outside of any class folder: {first_few(loose)}" if loose else "no folders"
        raise DataError(f"{folder} must contain one folder per class", got=got, fix=f"provide {LAYOUT}")
    leaves = [leaf for one in classes for leaf in _leaves(one)] if nested else list(classes)
    # In the order of their names in NFC, which does not depend on the file system.
    leaves.sort(key=lambda leaf: [normalized(part) for part in leaf.parts])
    all_normalized([leaf.relative_to(folder).as_posix() for leaf in leaves], printable(folder))
    images = _class_images(folder, leaves, root, may_lack=may_lack)
    files = [file for members in images.values() for file in members]
    labels = [label for label, members in enumerate(images.values()) for _ in members]
    return file_table(files, labels, list(images), root)


def _leaves(folder: Path) -> Iterator[Path]:
    """The folders without inner folders."""
    folders, files, _ = contents(folder)
    if not folders:
        yield folder
        return
    loose = [file.name for file in files if is_image(file)]
    if loose:
        rule = f"With --data.nested_classes, {folder} must contain either images or folders"
        raise DataError(
            rule, got=f"folders, and images such as {loose[0]}", fix="move the images to a folder."
        )
    for inner in folders:
        yield from _leaves(inner)


def _class_images(
    folder: Path, classes: Sequence[Path], root: Path, *, may_lack: bool
) -> dict[str, list[Path]]:
    """The image files of each class. Nested folders, files of other types and empty folders are errors."""
    images: dict[str, list[Path]] = {}
    nested, foreign, hidden = list[Path](), list[Path](), list[Path]()
    for class_folder in classes:
        inner, files, with_dot = contents(class_folder)
        images[class_folder.relative_to(folder).as_posix()] = [file for file in files if is_image(file)]
        nested += inner
        hidden += with_dot
        foreign += [
            file for file in files if not is_image(file) and file.suffix.lower() not in METADATA_SUFFIXES
        ]
    if nested:
        rule = f"Images must be directly in their class folders: {folder}"
        got = f"{len(nested)} folders inside class folders: {_few(nested, root)}"
        raise DataError(rule, got=got, fix=f"provide {LAYOUT.removesuffix('.')}; {NESTED}")
    if foreign:
        rule = f"Class folders of {folder} must contain only images"
        got = f"{len(foreign)} files of other types: {_few(foreign, root)}"
        raise DataError(rule, got=got, fix="convert or remove these files.")
    empty = [name for name, files in images.items() if not files]
    if empty and (not may_lack or len(empty) == len(images)):
        rule = f"Every class folder of {folder} must contain images"
        got = f"{len(empty)} empty: {first_few(empty)}"
        raise DataError(rule, got=got, fix="add images, or remove the folder.")
    warn_of_hidden(hidden, root)
    return images


def _few(paths: Sequence[Path], root: Path) -> str:
    return first_few([path.relative_to(root).as_posix() for path in paths])
