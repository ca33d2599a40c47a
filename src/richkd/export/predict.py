"""Predict the classes of many image files: find them, go on after a bad one, and write the results."""

from __future__ import annotations

import glob
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from PIL import Image
from torch import Tensor

from richkd.config.names import nearest_option
from richkd.core.errors import ConfigError, DataError, NonFiniteError, RichKDError
from richkd.core.json_text import to_json
from richkd.core.presence import exists, is_dir
from richkd.core.spreadsheet import csv_line
from richkd.core.user_files import with_newlines
from richkd.core.visible import visible
from richkd.data.file_types import printable
from richkd.data.formats.scan import images_below
from richkd.data.opening import RESTORE
from richkd.export.artifact import Classifier
from richkd.export.images import rgb_of
from richkd.export.student import BATCH

WILDCARDS = frozenset("*?[")
# The part of an advice that is about images for training.
OF_DATA = ", or remove the file from the data set"
# The advice for a file that is not there: a path on the command line may be mistyped.
RETYPE = "check the path, or restore the file."
# Number of images that an error message lists.
NAMED = 10
SHOWN = "`richkd predict --help` shows how it is used."


@dataclass(frozen=True)
class Prediction:
    """The most probable classes of an image, the most probable one first, or why it could not be read.

    Attributes:
        image: path of the file.
        classes: class names with their probabilities in [0, 1]; empty for an image that cannot be read.
        error: why it has no prediction; None otherwise.
        decoded: whether the image was read; with an ``error``, the student's outputs are NaN or infinite.
        fix: what the user can do about it.
    """

    image: Path
    classes: tuple[tuple[str, float], ...] = ()
    error: str | None = None
    fix: str | None = None
    decoded: bool = False


def with_stdin(names: Iterable[str], options: Sequence[str] = ()) -> list[str]:
    """The same names, with the lines of standard input in the place of ``-``.

    Args:
        names: names of images.
        options: the options of the command, one of which a name may have meant.

    Raises:
        ConfigError: a name that looks like an option and is no file.

    Example:
        >>> with_stdin(["a.png", "photos/"])
        ['a.png', 'photos/']
    """
    result: list[str] = []
    for name in names:
        if name.startswith("--") and not exists(name):
            option = name.partition("=")[0]
            fix = nearest_option(option, options, SHOWN) if options else SHOWN
            raise ConfigError(f"There is no option {option}", fix=fix)
        result += _lines_of_stdin() if name == "-" else [name]
    return result


def _lines_of_stdin() -> list[str]:
    """The lines of standard input; names of files may have any bytes, as those of `find -print`."""
    if sys.stdin is None:  # closed by the shell, as by <&-
        return []
    binary = getattr(sys.stdin, "buffer", None)
    text = sys.stdin.read() if binary is None else os.fsdecode(binary.read())
    return [line for line in with_newlines(text).split("\n") if line.strip()]


def find_images(names: Iterable[str | Path]) -> list[Path]:
    """The image files that are meant by paths of files, folders and patterns.

    A folder stands for all images in it and its subfolders, in the order of their paths, except for hidden
    ones (`richkd.data.formats.scan.contents`); a pattern such as ``photos/*.jpg`` for the files that match
    it, without folders. A file is kept even if it does not exist or has another suffix, so that reading it
    names it in an error.

    Raises:
        DataError: an empty name, a folder without images, or a pattern without matches.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for name in ("b.png", "a.jpg", "notes.txt"):
        ...         path = Path(folder, name).write_bytes(b"")
        ...     [path.name for path in find_images([folder])], len(find_images([f"{folder}/*.png"]))
        (['a.jpg', 'b.png'], 1)
    """
    paths: list[Path] = []
    for name in names:
        path = Path(name)
        if not str(name).strip():
            raise DataError("An image must have a name", got=repr(str(name)), fix="check the command.")
        if is_dir(path):
            images = images_below(path)
        elif WILDCARDS & set(str(name)) and not os.path.lexists(path):
            # Patterns may be absolute, which Path.glob does not take.
            matches = map(Path, glob.glob(str(name), recursive=True))  # noqa: PTH207
            images = sorted(match for match in matches if not is_dir(match))
        else:
            images = [path]
        if not images:
            raise DataError(f"There are no images in {name}", fix="check the path.")
        paths += images
    return paths


def refuse_overwriting(out: Path, files: Iterable[Path]) -> None:
    """Check that the predictions do not replace a file that they are made from.

    Raises:
        ConfigError: ``out`` is one of the files, be it under another name.

    Example:
        >>> try:
        ...     refuse_overwriting(Path(__file__), [Path("a.png"), Path(__file__)])
        ... except ConfigError as error:
        ...     error.fix
        'give the name of another file, such as predictions.csv.'
    """
    try:
        written = out.stat()
    except OSError:
        return
    for file in files:
        with suppress(OSError):
            if os.path.samestat(file.stat(), written):
                raise ConfigError(
                    f"--out {out} must not be a file that is read",
                    got=f"{printable(file)}, which would be replaced",
                    fix="give the name of another file, such as predictions.csv.",
                )


def predict_files(student: Classifier, paths: Sequence[str | Path], top: int) -> Iterator[Prediction]:
    """The ``top`` most probable classes of each file, in order.

    A file that cannot be read, or for which the student's outputs are NaN or infinite, does not stop it.
    """
    for start in range(0, len(paths), BATCH):
        part = [Path(path) for path in paths[start : start + BATCH]]
        images, errors = {}, dict[int, RichKDError]()
        for place, path in enumerate(part):
            try:
                images[place] = rgb_of(path)
            except DataError as error:
                errors[place] = error
        probabilities = _probabilities(student, images, errors)
        for place, path in enumerate(part):
            if place in errors:
                refused = errors[place]
                yield Prediction(path, error=refused.got, fix=refused.fix, decoded=place in images)
                continue
            best = probabilities[place].topk(min(top, len(student.class_names)))
            names = (student.class_names[position] for position in best.indices.tolist())
            yield Prediction(path, tuple(zip(names, best.values.tolist(), strict=True)))


def _probabilities(
    student: Classifier, images: Mapping[int, Image.Image], errors: dict[int, RichKDError]
) -> dict[int, Tensor]:
    """The probabilities of images by their places; errors of images without finite outputs are added."""
    try:
        return dict(zip(images, student.probabilities(list(images.values())), strict=True))
    except NonFiniteError:
        probabilities = {}
        for place, image in images.items():
            try:
                probabilities[place] = student.probabilities([image])[0]
            except NonFiniteError as error:
                errors[place] = NonFiniteError(
                    error.rule, got="the student's outputs are NaN or infinite", fix=error.fix
                )
        return probabilities


def lines_of(predictions: Iterable[Prediction], format: str) -> Iterator[str]:
    """The predictions as lines: text for people, JSON (one object per line) or CSV (one row per class).

    Images that cannot be read have an ``error`` in JSON, and no line otherwise. JSON has exact names. In
    text and CSV, hidden characters are shown (`visible`), and in CSV, names that a spreadsheet would take for
    formulas start with an apostrophe (`richkd.core.spreadsheet.cell`).

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
        yield csv_line(("image", "rank", "class", "probability"))
    for prediction in predictions:
        if format == "json":
            entry = {"error": prediction.error} if prediction.error else {"classes": dict(prediction.classes)}
            yield to_json({"image": printable(prediction.image), **entry})
        elif format == "csv":
            for rank, (name, probability) in enumerate(prediction.classes, start=1):
                yield csv_line((printable(prediction.image), rank, name, f"{probability:.6g}"))
        elif prediction.classes:
            yield visible(prediction.image)
            for name, probability in prediction.classes:
                yield f"  {probability:6.1%}  {visible(name)}"


def keep_errors(predictions: Iterable[Prediction], failed: list[Prediction]) -> Iterator[Prediction]:
    """The same predictions; those of images that cannot be read are appended to a list as well.

    Example:
        >>> failed: list[Prediction] = []
        >>> len(list(keep_errors([Prediction(Path("a.png"), error="truncated")], failed))), failed[0].error
        (1, 'truncated')
    """
    for prediction in predictions:
        if prediction.error is not None:
            failed.append(prediction)
        yield prediction


def unreadable(failed: Sequence[Prediction]) -> DataError:
    """The error with which a prediction ends some of whose images cannot be read.

    Example:
        >>> print(unreadable([Prediction(Path("a.png"), error="truncated", fix="replace the file.")]))
        1 of the images cannot be read; all others were predicted
        Got: a.png: truncated
        Fix: replace the file.
    """
    named = [_reason(prediction) for prediction in failed[:NAMED]]
    texts = (RETYPE if prediction.fix == RESTORE else str(prediction.fix) for prediction in failed)
    fixes = dict.fromkeys(text.replace(OF_DATA, "") for text in texts)
    problem = "predicted" if any(prediction.decoded for prediction in failed) else "read"
    return DataError(
        f"{len(failed)} of the images cannot be {problem}; all others were predicted",
        got="; ".join(named) + ("; …" if len(failed) > NAMED else ""),
        fix=" Or: ".join(list(fixes)[:3]),
    )


def _reason(prediction: Prediction) -> str:
    """The path of an image and why it has no prediction; errors of files end with the same path."""
    path = printable(prediction.image)
    return f"{path}: {str(prediction.error).removesuffix(f': {path}')}"


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
