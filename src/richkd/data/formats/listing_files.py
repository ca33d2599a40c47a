"""Read files that list images: CSV, TSV, lists of JSON objects, and lines of "image label"."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from richkd.core.errors import DataError, nearest
from richkd.core.regular_files import open_regular
from richkd.core.structured import parse_json
from richkd.core.user_files import read_text
from richkd.data.formats.scan import first_few, is_image

TABLES, JSON_LINES = (".csv", ".tsv"), (".jsonl", ".ndjson")
# JSON and text files in a data folder may be anything, so they are read as listings only when they are named.
DETECTED_SUFFIXES = (*TABLES, *JSON_LINES)
LISTING_SUFFIXES = (*DETECTED_SUFFIXES, ".json", ".txt")
# Names of columns without spaces and signs, the preferred ones first. Two names of one row are ambiguous.
IMAGE_NAMES = (
    (
        *("image", "images", "imagename", "imagefile", "imagefilename", "imagepath"),
        *("img", "imgname", "imgpath", "file", "files", "filename", "filenames"),
        *("filepath", "filepaths", "path", "paths"),
    ),
    ("imageid", "imgid", "id"),
)
LABEL_NAMES = (
    (
        *("label", "labels", "labelname", "class", "classname", "category", "categoryname"),
        *("target", "species", "breed", "genus", "diagnosis", "predictionstring"),
    ),
    ("classid", "classindex", "classidx", "labelid", "labelidx", "categoryid"),
)
SPLIT_COLUMNS = (("split", "set", "subset", "partition", "dataset"),)
IMAGE, LABEL = "image", "label"
# Length of the longest first line in characters; larger files without line breaks are no lists.
LONGEST = 1 << 20
# A line without any cell that has text.
EMPTY = re.compile(r'[\s,;"]*')
ENCODING = "save it as UTF-8 text."
FORM = "write a line of column names, such as image,label, and then one line per image."


@dataclass(frozen=True)
class Listing:
    """The columns of a file that lists images.

    Args:
        file: the file.
        columns: the values of each column as text; None or "" for a missing value.
        lines: number of the line of each row, for error messages.
        nested: columns with lists or objects, which cannot be names of images or labels.

    Example:
        >>> listing = Listing(Path("labels.csv"), {"Image Path": ["0.png"], "breed": ["husky"]}, [2])
        >>> listing.column(IMAGE_NAMES), listing.column(LABEL_NAMES), listing.column(SPLIT_COLUMNS)
        ('Image Path', 'breed', None)
    """

    file: Path
    columns: Mapping[str, Sequence[str | None]]
    lines: Sequence[int]
    nested: frozenset[str] = frozenset()

    def column(
        self, names: Sequence[Sequence[str]], asked: str | None = None, option: str = ""
    ) -> str | None:
        """The column with one of these names, or the one that was asked for; None if there is none.

        Raises:
            DataError: several columns that could be meant, a column with lists, or an ``asked`` column that
                does not exist; the fix names ``--data.OPTION``.
        """
        name = self._find(names, asked, option)
        if name in self.nested:
            rule = f"Column '{name}' of {self.file} must contain text or numbers"
            raise DataError(rule, got="lists or objects", fix=f"name another column with --data.{option}.")
        return name

    def _find(self, names: Sequence[Sequence[str]], asked: str | None, option: str) -> str | None:
        if asked is not None:
            if asked in self.columns:
                return asked
            rule = f"--data.{option} must name a column of {self.file}"
            raise DataError(
                rule,
                got=repr(asked),
                fix=nearest(asked, self.columns, "The first line of the file names all columns."),
            )
        for row in names:
            matches = [name for name in self.columns if re.sub(r"[\W_]", "", name.lower()) in row]
            if len(matches) > 1:
                raise DataError(
                    f"One column of {self.file} must be the {names[0][0]} column",
                    got=f"{len(matches)} candidates: {', '.join(matches)}",
                    fix=f"name the column with --data.{option}." if option else "rename one of them.",
                )
            if matches:
                return matches[0]
        return None

    def lines_of(self, rows: Sequence[int]) -> str:
        """The line numbers of some rows, for error messages."""
        return f"line{'s' * (len(rows) > 1)} {first_few([str(self.lines[row]) for row in rows])}"


def read_listing(file: Path, *, names: Sequence[str] | None = None, first: bool = False) -> Listing:
    """Read a file that lists images.

    Cells are separated by commas, semicolons or tabs, whichever the first line has most of; in ``.txt`` files
    also by spaces. A file of two columns without a line of names is read if its first cell is the name of an
    image file.

    Args:
        file: the file.
        names: names of the columns of a file that has no line of names.
        first: whether only the first line is read, to see what the file is.

    Raises:
        DataError: the file cannot be read, is not UTF-8, is empty, or has a line of another form.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = Path(folder) / "labels.csv"
        ...     size = file.write_text("image;label\\na.png;ant\\n")
        ...     read_listing(file).columns
        {'image': ['a.png'], 'label': ['ant']}
    """
    text = _first_line(file) if first else read_text(file, DataError, "The listing", ENCODING)
    if EMPTY.fullmatch(text):
        got = "only empty lines" if file.stat().st_size else "an empty file"
        raise DataError(f"{file} must list images", got=got, fix=FORM)
    suffix = file.suffix.lower()
    if suffix in JSON_LINES or (suffix == ".json" and text.lstrip()[0] in "[{"):
        return _from_objects(file, list(_objects(file, text)))
    return _from_cells(file, text, names)


def _first_line(file: Path) -> str:
    """The first line that is not empty."""
    try:
        with io.TextIOWrapper(open_regular(file), encoding="utf-8-sig") as opened:
            lines = iter(lambda: opened.readline(LONGEST), "")
            return next((line for line in lines if not EMPTY.fullmatch(line)), "")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"The listing {file} cannot be read", got=str(error), fix=ENCODING) from error


def _objects(file: Path, text: str) -> Iterator[tuple[int, Any]]:
    """The objects of a JSON list, or of the lines of the text, with their numbers."""
    if file.suffix.lower() == ".json" and text.lstrip()[0] == "[":
        try:
            yield from enumerate(parse_json(text), start=1)
        except ValueError as error:
            raise DataError(f"{file} must be valid JSON", got=str(error), fix="correct the file.") from error
        return
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            try:
                yield number, parse_json(line)
            except ValueError as error:
                raise DataError(
                    f"Every line of {file} must be a JSON object",
                    got=f"line {number}: {error}",
                    fix="correct it.",
                ) from error


def _from_objects(file: Path, numbered: Sequence[tuple[int, Any]]) -> Listing:
    fix = 'write {"image": …, "label": …} for each image.'
    if not numbered:
        raise DataError(f"{file} must list images", got="an empty list", fix=fix)
    for number, one in numbered:
        if not isinstance(one, dict):
            rule = f"Every image in {file} must be a JSON object"
            raise DataError(rule, got=f"{str(one)[:60]!r} at {number}", fix=fix)
    names = list(dict.fromkeys(name for _, one in numbered for name in one))
    columns = {
        name: [None if one.get(name) is None else str(one[name]) for _, one in numbered] for name in names
    }
    nested = {name for _, one in numbered for name, value in one.items() if isinstance(value, list | dict)}
    return Listing(file, columns, [number for number, _ in numbered], frozenset(nested))


def _from_cells(file: Path, text: str, names: Sequence[str] | None) -> Listing:
    signs = ",;\t " if file.suffix.lower() == ".txt" else ",;\t"
    first = next(line for line in text.split("\n") if not EMPTY.fullmatch(line))
    sign = max(signs, key=first.strip().count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=sign, skipinitialspace=True, strict=True)
    try:
        rows = [(reader.line_num, [cell.strip() for cell in row]) for row in reader]
    except csv.Error as error:
        rule = f"{file} must be a table of text"
        raise DataError(rule, got=f"line {reader.line_num}: {error}", fix="correct this line.") from error
    rows = [(number, row) for number, row in rows if any(row)]
    if names is None and len(rows[0][1]) == 2 and is_image(Path(rows[0][1][0])):
        names = (IMAGE, LABEL)
    elif names is None:
        names, rows = rows[0][1], rows[1:]
    _check_cells(file, names, rows)
    columns = {name: [row[place] for _, row in rows] for place, name in enumerate(names)}
    return Listing(file, columns, [number for number, _ in rows])


def _check_cells(file: Path, names: Sequence[str], rows: Sequence[tuple[int, Sequence[str]]]) -> None:
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise DataError(f"The columns of {file} must have different names", got=f"'{twice}' twice", fix=FORM)
    for number, row in rows:
        if len(row) != len(names):
            raise DataError(
                f"Every line of {file} must have {len(names)} cells",
                got=f"{len(row)} cells in line {number}",
                fix="correct this line; put cells that contain the separator in quotation marks.",
            )
