"""Open WebDataset shards: tar files with members such as ``000.jpg`` and ``000.cls``.

The loader ``webdataset`` of the library `datasets` refuses class names in ``.cls`` files, makes two columns
of ``.jpg`` and ``.png`` images, and copies all images. So members are listed here, and only labels and the
places of the images are given to `datasets`.
"""

from __future__ import annotations

import glob
import math
import re
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any, cast

import datasets

from richkd.core.errors import DataError
from richkd.core.home import expanded
from richkd.core.structured import parse_json
from richkd.data.columns import KEY_COLUMNS, Columns
from richkd.data.formats.listing_files import LABEL_NAMES, Listing
from richkd.data.formats.listings import whole_numbers
from richkd.data.formats.outside import refuse_special
from richkd.data.formats.scan import WHOLE, is_image, split_of, stamp_of_files
from richkd.data.slices import COLUMN as SLICES
from richkd.data.slices import FEATURE

SUFFIX = ".tar"
FIX = "write the shard again: an image and its label have the same name, such as 000.jpg and 000.cls."
# Largest number of files that a pattern may mean.
SHARDS = 1_000_000
# Largest member in bytes.
MEMBER = 1 << 30
RANGE = re.compile(r"\{(\d{1,30})\.\.(\d{1,30})\}")


def shards_of_pattern(path: str) -> dict[str, list[Path]] | None:
    """The shards that a pattern means, by split; None if ``path`` is no pattern of tar files.

    Args:
        path: a path with ``*``, ``?`` or a range, such as ``data/train-{0000..0003}.tar``.

    Raises:
        DataError: no file has such a name, or a file of a range does not exist.

    Example:
        >>> shards_of_pattern("photos/") is None
        True
    """
    if not path.endswith(SUFFIX) or not re.search(r"[*?\[{]", path):
        return None
    pattern = str(expanded(path))
    count = math.prod(max(0, int(last) - int(first) + 1) for first, last in RANGE.findall(pattern))
    if count > SHARDS:
        got = f"{count:,} names"
        raise DataError(f"{path} must mean at most {SHARDS:,} tar files", got=got, fix="shorten the range.")
    files = [
        Path(file)
        for name in _ranges(pattern)
        for file in (sorted(glob.glob(name)) if re.search(r"[*?\[]", name) else [name])  # noqa: PTH207
    ]
    missing = [file.name for file in files if not file.is_file()]
    if missing or not files:
        got = f"no file {missing[0]}" if missing else "no such file"
        raise DataError(f"{path} must be the names of tar files", got=got, fix="check the path.")
    splits: dict[str, list[Path]] = {}
    for file in files:
        splits.setdefault(split_of(file.stem) or WHOLE, []).append(file)
    # A pattern selects what it names, so files of a single split are divided like any undivided data.
    return splits if len(splits) > 1 and WHOLE not in splits else {WHOLE: files}


def _ranges(pattern: str) -> list[str]:
    """The names that a pattern with ranges ``{000..123}`` means."""
    match = RANGE.search(pattern)
    if match is None:
        return [pattern]
    first, last = match.groups()
    numbers = (str(number).zfill(len(first)) for number in range(int(first), int(last) + 1))
    return [
        name
        for number in numbers
        for name in _ranges(pattern[: match.start()] + number + pattern[match.end() :])
    ]


def open_shards(files: Sequence[Path], columns: Columns) -> datasets.Dataset:
    """Open tar files as one table. Images are read from the tar files whenever they are needed.

    A label is the text of the member ``.cls``, else an entry of the member ``.json``. A sample without both
    has no label.

    Args:
        files: the shards.
        columns: ``image`` is the ending of the image members, ``label`` that of the labels or the name of a
            JSON entry, where the user gave them.

    Raises:
        DataError: a file that is no tar file, a sample without an image or with several, or a label that
            cannot be read.

    Example:
        >>> import io, tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = Path(folder) / "train-0.tar"
        ...     with tarfile.open(file, "w") as tar:
        ...         for name, content in (("0.jpg", b"..."), ("0.cls", b"ant")):
        ...             member = tarfile.TarInfo(name)
        ...             member.size = len(content)
        ...             tar.addfile(member, io.BytesIO(content))
        ...     table = open_shards([file], Columns())
        >>> table["label"][:], table["file"][:]
        (['ant'], ['0'])
    """
    columns = columns.among(_names_in(files[0])) if columns.optional else columns
    image, label = columns.image or "image", columns.label or "label"
    names = (image, label, next(name for name in KEY_COLUMNS if name not in (image, label)))
    arguments = {
        "shards": [str(file.absolute()) for file in files],
        # Part of the name of the list, so that the list of a replaced file is not used.
        "stamp": stamp_of_files(files),
        "names": (*names, SLICES),
        "columns": (columns.image, columns.label),
    }
    if next(_samples(arguments), None) is None:
        raise DataError(f"{files[0]} must contain images", got="no images", fix=FIX)
    rows = _listed(arguments, files[0].parent)
    labels = whole_numbers(rows[label][:])
    if isinstance(labels[0], int):
        rows = rows.remove_columns([label]).add_column(label, labels)
    return rows


def _names_in(shard: Path) -> set[str]:
    """The endings of the members of the first sample, and the entries of its JSON."""
    # Members can be read as long as the iterator exists.
    for key, fields in _groups(shard):
        return fields.keys() | _entries(fields, f"{key} of {shard}").keys()
    return set()


def _listed(arguments: Mapping[str, Any], folder: Path) -> datasets.Dataset:
    """The rows of `_samples`, which are kept in the cache of the library `datasets`."""
    kinds = (datasets.Image(decode=False), datasets.Value("string"), datasets.Value("string"), FEATURE)
    features = datasets.Features(dict(zip(arguments["names"], kinds, strict=True)))
    try:
        return datasets.Dataset.from_generator(
            _samples, features=features, gen_kwargs={"arguments": arguments}
        )
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        if isinstance(error.__cause__, DataError):
            raise error.__cause__ from None
        got = str(error.__cause__ or error)
        raise DataError(f"The shards of {folder} must open as one table", got=got, fix=FIX) from error


def _samples(arguments: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """One row per image of the shards."""
    image_name, label_name, key_name, slice_name = arguments["names"]
    asked_image, asked_label = arguments["columns"]
    for shard in arguments["shards"]:
        for key, fields in _groups(Path(shard)):
            images = [
                field
                for field in fields
                if (
                    field == asked_image if asked_image else "." not in field and is_image(Path(f"x.{field}"))
                )
            ]
            label = _label(fields, asked_label, f"{key} of {shard}")
            if not images and label is None:
                continue
            if len(images) != 1:
                raise DataError(
                    f"Every sample of {shard} must have one image",
                    got=f"{key} with {', '.join(fields)}",
                    fix="name the ending of the images with --data.image_column." if images else FIX,
                )
            cell = {"bytes": None, "path": f"{key}.{images[0]}"}
            place = fields[images[0]].slice
            yield {image_name: cell, label_name: label, key_name: key, slice_name: place}


@dataclass(frozen=True)
class _Member:
    """A member of a tar file: where it is, and the opened file."""

    slice: dict[str, Any]
    opened: IO[bytes]

    def read(self) -> bytes:
        self.opened.seek(self.slice["offset"])
        return self.opened.read(self.slice["size"])


def _groups(shard: Path) -> Iterator[tuple[str, dict[str, _Member]]]:
    """Consecutive members of the same name, by ending."""
    key, fields = "", dict[str, _Member]()
    try:
        refuse_special(shard)
        status, last = shard.stat(), -1
        size = status.st_size
        common = {
            "file": str(shard.absolute()),
            "modified": status.st_mtime_ns,
            "column": None,
            "group": None,
        }
        with tarfile.open(shard, "r:") as tar:
            for member in tar:
                _check_member(member, size, last)
                last = member.offset
                path = PurePosixPath(member.name)
                stem, _, field = path.name.partition(".")
                if not stem or not member.isfile():
                    continue
                assert tar.fileobj is not None
                name = (path.parent / stem).as_posix()
                if name != key and fields:
                    yield key, fields
                    fields = {}
                key = name
                place = {**common, "offset": member.offset_data, "size": member.size}
                fields[field.lower()] = _Member(place, cast(IO[bytes], tar.fileobj))
            if fields:
                yield key, fields
    except DataError:
        raise
    # Headers may hold any number and text, for which tarfile raises errors of many types.
    except Exception as error:
        got = f"{type(error).__name__}: {error}"
        raise DataError(f"{shard} must be a tar file without compression", got=got, fix=FIX) from error


def _check_member(member: tarfile.TarInfo, size: int, last: int) -> None:
    """Check that a member is in the file: sparse members and headers of damaged files state any size."""
    if member.offset <= last:
        raise tarfile.ReadError(f"{member.name[:100]!r} begins before the end of the member before it")
    if member.isfile() and (member.issparse() or not 0 <= member.size <= min(size, MEMBER)):
        raise tarfile.ReadError(f"{member.name[:100]!r} states {member.size:,} bytes in a file of {size:,}")


def _label(fields: Mapping[str, _Member], asked: str | None, where: str) -> str | None:
    """The text of a member, or an entry of the JSON member; None if there is neither."""
    member = asked if asked is not None and asked in fields else "cls" if asked is None else None
    if member is not None and member in fields:
        try:
            return fields[member].read().decode("utf-8").strip() or None
        except ValueError as error:
            raise DataError(f"The label of {where} must be readable", got=str(error), fix=FIX) from error
    entries = _entries(fields, where)
    listing = Listing(Path(where), {name: [""] for name in entries}, [])
    name = listing.column(LABEL_NAMES, asked, "label_column") if entries else None
    value = None if name is None else entries[name]
    if isinstance(value, list | dict):
        raise DataError(f"The label of {where} must be text or a number", got=str(value)[:60], fix=FIX)
    return None if value is None or value == "" else str(value)


def _entries(fields: Mapping[str, _Member], where: str) -> dict[str, Any]:
    """The entries of the JSON member; none if there is no such member."""
    try:
        entries = parse_json(fields["json"].read()) if "json" in fields else {}
    except ValueError as error:
        raise DataError(f"The label of {where} must be readable", got=str(error), fix=FIX) from error
    if not isinstance(entries, dict):
        raise DataError(f"The JSON of {where} must be an object", got=str(entries)[:60], fix=FIX)
    return entries
