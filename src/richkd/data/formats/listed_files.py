"""Find the files that the lines of a listing name."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from richkd.core.errors import DataError
from richkd.core.presence import resolved
from richkd.data.class_text import normalized
from richkd.data.formats.listing_files import Listing
from richkd.data.formats.scan import SPLIT_NAMES, contents, first_few, is_image

# Levels of folders below that of the listing in which images are looked for.
DEPTH = 2


def find_files(
    listing: Listing, names: Sequence[str], splits: Sequence[str | None], root: Path
) -> list[Path]:
    """Find the image files of a listing.

    A name is the path of a file, absolute or relative to ``root``. Otherwise it is looked for among the
    images in ``root`` and two levels of folders below it, with or without the ending of the file: ``0001``
    means ``train/0001.jpg`` if no other image has this name. If several have it, those in the folder of the
    image's split count. Names are compared in Unicode normal form C.

    Args:
        listing: the listing, for error messages.
        names: names of the images.
        splits: split of each image, or None.
        root: the folder that paths are relative to.

    Raises:
        DataError: files that do not exist, or a name that several files have; the first few are listed.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     (Path(folder) / "train").mkdir()
        ...     (Path(folder) / "train/000a.jpg").touch()
        ...     listing = Listing(Path(folder) / "labels.csv", {"id": ["000a"]}, [2])
        ...     [file.name for file in find_files(listing, ["000a"], [None], Path(folder))]
        ['000a.jpg']
    """
    files = [_direct(name, root) for name in names]
    absent = [row for row, file in enumerate(files) if file is None]
    if absent:
        images = _images_by_name(root)
        for row in absent:
            files[row] = _among(images, names[row], splits[row], root, listing)
    missing = [row for row in absent if files[row] is None]
    if missing:
        raise DataError(
            f"Every image in {listing.file} must exist",
            got=f"{len(missing)} of {len(names)} missing: {first_few([names[row] for row in missing])}",
            fix=f"write paths relative to {root}, or remove these lines.",
        )
    return [file for file in files if file is not None]


def _direct(name: str, root: Path) -> Path | None:
    for path in (name, name.replace("\\", "/")):
        file = root / path
        if os.path.isfile(file):  # noqa: PTH113 - Path.is_file raises for some names
            return without_parents(file)
    return None


def without_parents(path: Path) -> Path:
    """The same path without ``..``: what precedes one is resolved, because it may be a symbolic link.

    Example:
        >>> without_parents(Path("zoo/ant/0.png")).as_posix()
        'zoo/ant/0.png'
        >>> without_parents(Path("/zoo/ant/../bee/0.png")).as_posix()
        '/zoo/bee/0.png'
    """
    parts = path.parts
    if ".." not in parts:
        return path
    start = len(parts) - parts[::-1].index("..")
    return resolved(Path(*parts[:start])).joinpath(*parts[start:])


def _images_by_name(root: Path) -> dict[str, list[Path]]:
    """Image files by name in NFC, and by name without ending."""
    images: dict[str, list[Path]] = {}
    for file in _images(root, DEPTH):
        for name in (file.name, file.stem):
            images.setdefault(normalized(name), []).append(file)
    return images


def _images(folder: Path, depth: int) -> Iterator[Path]:
    folders, files, _ = contents(folder)
    yield from filter(is_image, files)
    if depth:
        for inner in folders:
            yield from _images(inner, depth - 1)


def _among(
    images: dict[str, list[Path]], name: str, split: str | None, root: Path, listing: Listing
) -> Path | None:
    parts = tuple(part for part in normalized(name).replace("\\", "/").split("/") if part not in ("", "."))
    if not parts:
        return None
    fits = [file for file in images.get(parts[-1], []) if _folders(file, len(parts)) == parts[:-1]]
    if len(fits) > 1:
        in_split = [file for file in fits if split and split in _splits_in(file.relative_to(root))]
        fits = in_split or fits
    if len(fits) > 1:
        paths = first_few([file.relative_to(root).as_posix() for file in fits])
        raise DataError(
            f"Every image in {listing.file} must be one file",
            got=f"{name}, which may be any of {paths}",
            fix=f"write paths relative to {root}.",
        )
    return fits[0] if fits else None


def _folders(file: Path, parts: int) -> tuple[str, ...]:
    return tuple(normalized(part) for part in file.parts[-parts:-1])


def _splits_in(path: Path) -> set[str | None]:
    """The splits that the folders of a path are named after."""
    return {SPLIT_NAMES.get(part.lower()) for part in path.parts[:-1]}
