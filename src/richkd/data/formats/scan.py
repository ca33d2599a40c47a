"""What lies in a folder: names of splits, visible files, image files, and tables of image files."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import datasets

from richkd.core.errors import DataError
from richkd.core.logs import logger_of
from richkd.core.presence import resolved
from richkd.data.class_text import all_normalized
from richkd.data.file_types import IMAGE_SUFFIXES, printable, refuse_formats

SPLIT_NAMES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
# Name of the only table of a source that is not divided into splits.
WHOLE = "data"
# Files and folders that operating systems create.
SYSTEM_FILES = frozenset({"Thumbs.db", "desktop.ini", "__MACOSX"})
LAYOUT = "one folder per class, or train/, val/ and test/ folders that each hold one folder per class."

logger = logger_of(__name__)


class Contents(NamedTuple):
    """What lies directly in a folder, each list sorted by name: folders, files, and folders with a dot."""

    folders: list[Path]
    files: list[Path]
    hidden: list[Path]


def contents(folder: Path) -> Contents:
    """The contents of a folder, without hidden files and without what operating systems create.

    Raises:
        DataError: the folder cannot be read.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for name in ("b", "a", ".cache"):
        ...         (Path(folder) / name).mkdir()
        ...     (Path(folder) / "Thumbs.db").touch()
        ...     entries = contents(Path(folder))
        >>> [path.name for path in entries.folders], entries.files, [path.name for path in entries.hidden]
        (['a', 'b'], [], ['.cache'])
    """
    try:
        with os.scandir(folder) as entries:
            names = sorted((e.name, _is_folder(e)) for e in entries if e.name not in SYSTEM_FILES)
    except OSError as error:
        rule, got = f"Folder {printable(folder)} must be readable", error.strerror or str(error)
        raise DataError(rule, got=got, fix="check the path and its permissions.") from error
    seen = [(folder / name, is_dir) for name, is_dir in names if name[0] != "."]
    return Contents(
        [path for path, is_dir in seen if is_dir],
        [path for path, is_dir in seen if not is_dir],
        [folder / name for name, is_dir in names if is_dir and name[0] == "."],
    )


def check_files(files: Sequence[Path], where: str) -> None:
    """Check that names of image files can be stored in tables, and that their formats can be read.

    Args:
        files: the image files.
        where: what the files belong to, for error messages.

    Raises:
        DataError: names that are not UTF-8, or formats that need a package that is not installed.

    Example:
        >>> check_files([Path("ant.png")], "zoo")
    """
    odd = [printable(file) for file in files if printable(file) != str(file)]
    if odd:
        raise DataError(
            f"The names of all images in {where} must be valid UTF-8",
            got=f"{len(odd)} that are not: {first_few(odd)}",
            fix="rename these files or folders, for example with convmv.",
        )
    refuse_formats(files, where)


def is_image(file: Path) -> bool:
    """Whether the name of a file ends like that of an image.

    Example:
        >>> is_image(Path("ant.JPEG")), is_image(Path("ant.txt"))
        (True, False)
    """
    return file.suffix.lower() in IMAGE_SUFFIXES


def walk(folder: Path, excluded: Collection[Path] = ()) -> Iterator[Contents]:
    """The contents of a folder and of all folders below it.

    Symbolic links to folders are followed, except for one to a folder that contains it.

    Args:
        folder: the folder.
        excluded: folders that are left out, resolved.

    Raises:
        DataError: a folder cannot be read.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     (Path(folder) / "a").mkdir()
        ...     (Path(folder) / "a" / "loop").symlink_to(folder)
        ...     len(list(walk(Path(folder))))
        2
    """
    waiting = [(folder, frozenset[tuple[int, int]]())]
    while waiting:
        place, above = waiting.pop()
        if excluded and resolved(place) in excluded:
            continue
        entries, status = contents(place), place.stat()
        identity = (status.st_dev, status.st_ino)
        if identity not in above:
            yield entries
            waiting += [(inner, above | {identity}) for inner in reversed(entries.folders)]


def images_below(folder: Path) -> list[Path]:
    """The image files in a folder and its subfolders, sorted by path. What is hidden is left out, and logged.

    Raises:
        DataError: a folder cannot be read.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for name in ("b.png", ".a.png", "notes.txt"):
        ...         (Path(folder) / name).touch()
        ...     [file.name for file in images_below(Path(folder))]
        ['b.png']
    """
    images, hidden = list[Path](), list[Path]()
    for entries in walk(folder):
        images += filter(is_image, entries.files)
        hidden += entries.hidden
    warn_of_hidden(hidden, folder)
    return sorted(images)


def holds_images(folder: Path) -> bool:
    """Whether a folder has images at any depth.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     holds_images(Path(folder))
        False
    """
    return any(is_image(file) for entries in walk(folder) for file in entries.files)


def split_of(name: str) -> str | None:
    """The split that the first word of a file name means, such as ``train-00000-of-00003``.

    Example:
        >>> split_of("Training_labels"), split_of("validation-0"), split_of("labels")
        ('train', 'val', None)
    """
    words = re.findall(r"[a-z]+", name.lower())
    return SPLIT_NAMES.get(words[0]) if words else None


def files_by_split(
    place: Path, folders: Sequence[Path], suffix: str, excluded: set[Path] | frozenset[Path] = frozenset()
) -> dict[str, list[Path]]:
    """Files by split, according to their names (``train-00000-of-00003``) or to their folders.

    Args:
        place: the folder of the data set.
        folders: its folders. Files are also looked for in those named ``data`` or after a split.
        suffix: how the names of the files end, such as ``".parquet"``.
        excluded: files that do not belong to the data set.

    Returns:
        Files by split; under `WHOLE` if no file belongs to a split.

    Raises:
        DataError: some files belong to a split and others do not.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for name in ("train-0.parquet", "train-1.parquet", "validation-0.parquet"):
        ...         (Path(folder) / name).touch()
        ...     by_split = files_by_split(Path(folder), [], ".parquet")
        >>> {split: [file.name for file in files] for split, files in by_split.items()}
        {'train': ['train-0.parquet', 'train-1.parquet'], 'val': ['validation-0.parquet']}
    """
    inner = [folder for folder in folders if folder.name.lower() in (*SPLIT_NAMES, "data")]
    result: dict[str, list[Path]] = {}
    for folder in [place, *inner]:
        for file in (file for file in contents(folder).files if file.name.endswith(suffix)):
            of_folder = SPLIT_NAMES.get(folder.name.lower()) if folder != place else None
            name = split_of(file.stem) or of_folder or WHOLE
            if resolved(file) not in excluded:
                result.setdefault(name, []).append(file)
    _check_split_names(result, place, suffix)
    return result


def _check_split_names(files: dict[str, list[Path]], place: Path, suffix: str) -> None:
    """Either all or none of the files belong to a split."""
    if WHOLE in files and len(files) > 1:
        kind = suffix.removeprefix(".")
        rule = f"Either all or none of the {kind} files in {place} must be named after their split"
        got = f"{first_few([file.name for file in files[WHOLE]])} without a split name"
        raise DataError(rule, got=got, fix="start every file name with train-, validation- or test-.")


def stamp_of_files(files: Sequence[Path]) -> str:
    """SHA-256 of the paths, sizes, times and inodes of files, which changes when a file is replaced.

    Example:
        >>> len(stamp_of_files([Path(__file__)]))
        64
    """
    stamp = hashlib.sha256()
    for file in files:
        status = file.stat()
        stamp.update(
            f"{resolved(file)} {status.st_size} {status.st_mtime_ns} {status.st_ctime_ns} "
            f"{status.st_ino}\n".encode()
        )
    return stamp.hexdigest()


def file_table(
    files: Sequence[Path], labels: Sequence[int], names: Sequence[str], root: Path
) -> datasets.Dataset:
    """A table of image files with class positions; keys are the paths relative to ``root``.

    Args:
        files: the image files.
        labels: position in ``names`` of each file.
        names: names of the classes.
        root: folder that contains all files.

    Raises:
        DataError: see `check_files`.
        ClassError: two names that are the same text.

    Example:
        >>> file_table([Path("zoo/ant/0.png")], [0], ["ant", "bee"], Path("zoo"))["file"][:]
        ['ant/0.png']
    """
    check_files(files, printable(root))
    table = {
        "image": [{"bytes": None, "path": str(file)} for file in files],
        "label": list(labels),
        "file": [file.relative_to(root).as_posix() for file in files],
    }
    label = datasets.ClassLabel(names=list(all_normalized(names, printable(root))))
    features = {"image": datasets.Image(decode=False), "label": label, "file": datasets.Value("string")}
    return datasets.Dataset.from_dict(table, features=datasets.Features(features))


def warn_of_hidden(hidden: Iterable[Path], root: Path) -> None:
    """Log one line with those of the hidden folders that hold images, because these images are not used.

    Example:
        >>> warn_of_hidden([], Path("zoo"))
    """
    ignored = [printable(folder.relative_to(root)) for folder in hidden if holds_images(folder)]
    if ignored:
        logger.warning("%s: images in hidden folders are ignored: %s", root, first_few(ignored))


def first_few(names: Sequence[str]) -> str:
    """The first five names of a list, for error messages.

    Example:
        >>> first_few(["a", "b"]), first_few(list("abcdefg"))
        ('a, b', 'a, b, c, d, e and 2 more')
    """
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _is_folder(entry: os.DirEntry[str]) -> bool:
    # Most entries know it without asking the system, but a loop of symbolic links is an error.
    try:
        return entry.is_dir()
    except OSError:
        return False
