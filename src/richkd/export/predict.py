"""Predict the classes of many image files: find them, go on after a bad one, and write the results."""

from __future__ import annotations

import csv
import glob
import io
import json
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from richkd.core.errors import ConfigError, DataError
from richkd.data.file_types import IMAGE_SUFFIXES
from richkd.export.student import BATCH, Student, rgb_of

WILDCARDS = frozenset("*?[")


@dataclass(frozen=True)
class Prediction:
    """The most probable classes of an image, the most probable one first, or why it could not be read.

    Attributes:
        image: path of the file.
        classes: class names with their probabilities in [0, 1]; empty for an image that cannot be read.
        error: why it cannot be read; None otherwise.
    """

    image: Path
    classes: tuple[tuple[str, float], ...] = ()
    error: str | None = None


def with_stdin(names: Iterable[str]) -> list[str]:
    """The same names, with the lines of standard input in the place of ``-``.

    Raises:
        ConfigError: a name that looks like an option and is no file.

    Example:
        >>> with_stdin(["a.png", "photos/"])
        ['a.png', 'photos/']
    """
    result: list[str] = []
    for name in names:
        if name.startswith("--") and not Path(name).exists():
            raise ConfigError(f"There is no option {name}", fix="see `richkd predict --help`.")
        result += sys.stdin.read().splitlines() if name == "-" else [name]
    return result


def find_images(names: Iterable[str | Path]) -> list[Path]:
    """The image files that are meant by paths of files, folders and patterns.

    A folder stands for all images in it and its subfolders, in the order of their paths; a pattern such as
    ``photos/*.jpg`` for the files that match it. A file is kept even if it does not exist or has another
    suffix, so that reading it names it in an error.

    Raises:
        DataError: a folder without images, or a pattern without matches.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for name in ("b.png", "a.jpg", "notes.txt"):
        ...         path = Path(folder, name).write_bytes(b"")
        ...     [path.name for path in find_images([folder])], len(find_images([f"{folder}/*.png"]))
        (['a.jpg', 'b.png'], 1)
    """
    found: list[Path] = []
    for name in names:
        path = Path(name)
        if path.is_dir():
            images = sorted(file for file in path.rglob("*") if file.suffix.lower() in IMAGE_SUFFIXES)
        elif WILDCARDS & set(str(name)) and not path.exists():
            # Patterns may be absolute, which Path.glob does not take.
            images = sorted(map(Path, glob.glob(str(name), recursive=True)))  # noqa: PTH207
        else:
            images = [path]
        if not images:
            raise DataError(f"There are no images in {name}", fix="check the path.")
        found += images
    return found


def predict_files(student: Student, paths: Sequence[str | Path], top: int) -> Iterator[Prediction]:
    """The ``top`` most probable classes of each file, in order.

    A file that cannot be read does not stop it.
    """
    for start in range(0, len(paths), BATCH):
        part = [Path(path) for path in paths[start : start + BATCH]]
        images, errors = {}, {}
        for place, path in enumerate(part):
            try:
                images[place] = rgb_of(path)
            except DataError as error:
                errors[place] = str(error.got)
        probabilities = dict(zip(images, student.probabilities(list(images.values())), strict=True))
        for place, path in enumerate(part):
            if place in errors:
                yield Prediction(path, error=errors[place])
                continue
            best = probabilities[place].topk(min(top, len(student.class_names)))
            names = (student.class_names[position] for position in best.indices.tolist())
            yield Prediction(path, tuple(zip(names, best.values.tolist(), strict=True)))


def lines_of(predictions: Iterable[Prediction], format: str) -> Iterator[str]:
    """The predictions as lines: text for people, JSON (one object per line) or CSV (one row per class).

    Images that cannot be read have an ``error`` in JSON, and no line otherwise.

    Example:
        >>> ant = Prediction(Path("a.png"), (("ant", 0.75), ("bee", 0.25)))
        >>> print(*lines_of([ant], "csv"), sep="\\n")
        image,rank,class,probability
        a.png,1,ant,0.75
        a.png,2,bee,0.25
        >>> print(*lines_of([ant], "json"))
        {"image": "a.png", "classes": {"ant": 0.75, "bee": 0.25}}
    """
    if format == "csv":
        yield _row("image", "rank", "class", "probability")
    for prediction in predictions:
        if format == "json":
            found = {"error": prediction.error} if prediction.error else {"classes": dict(prediction.classes)}
            yield json.dumps({"image": str(prediction.image), **found}, ensure_ascii=False)
        elif format == "csv":
            for rank, (name, probability) in enumerate(prediction.classes, start=1):
                yield _row(str(prediction.image), str(rank), name, f"{probability:.6g}")
        elif prediction.classes:
            yield str(prediction.image)
            for name, probability in prediction.classes:
                yield f"  {probability:6.1%}  {name}"


def keep_errors(predictions: Iterable[Prediction], errors: list[str]) -> Iterator[Prediction]:
    """The same predictions; the errors of images that cannot be read are appended to a list.

    Example:
        >>> errors: list[str] = []
        >>> len(list(keep_errors([Prediction(Path("a.png"), error="truncated")], errors))), errors
        (1, ['a.png: truncated'])
    """
    for prediction in predictions:
        if prediction.error is not None:
            errors.append(f"{prediction.image}: {prediction.error}")
        yield prediction


def format_of(*, json: bool, csv: bool, out: Path | None) -> str:
    """The format that the options ask for; without them, that of the file's suffix.

    Example:
        >>> format_of(json=False, csv=False, out=Path("x.csv")), format_of(json=False, csv=False, out=None)
        ('csv', 'text')
    """
    if json or csv:
        return "json" if json else "csv"
    suffix = out.suffix.lower() if out else ""
    return {".json": "json", ".jsonl": "json", ".csv": "csv"}.get(suffix, "text")


def _row(*cells: str) -> str:
    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow(cells)
    return line.getvalue()
