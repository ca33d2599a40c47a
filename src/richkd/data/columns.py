"""Make a split from a table: find the columns of images, labels and keys, and the names of the classes."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import datasets
import torch
from torch import Tensor

from richkd.core.errors import DataError, nearest
from richkd.core.logs import logger_of
from richkd.data.class_text import all_normalized, is_number, normalized
from richkd.data.classes import check_same_classes, positions_of
from richkd.data.formats.scan import LAYOUT, WHOLE, first_few
from richkd.data.split import Split

LABEL_COLUMNS = ("label", "labels", "fine_label")
KEY_COLUMNS = ("file", "file_name", "filename", "path", "id")
# What may be wrong if exactly the first class has no images.
COUNTED_FROM_ONE = "; if labels are integers that count from 1, every image is read as another class"

logger = logger_of(__name__)


@dataclass(frozen=True)
class Columns:
    """Names of the columns of a table or listing, where the user gave them.

    Args:
        image: name of the image column; by default the only column of images or of bytes.
        label: name of the label column; by default the only ``ClassLabel`` column, or one of `LABEL_COLUMNS`.
        key: name of the key column; by default the first of `KEY_COLUMNS` that holds unique strings. Without
            a key column, images are named by their row number.
        optional: whether the defaults count for names that a source does not have, because the user gave them
            for another source.

    Example:
        >>> Columns(label="breed").image is None
        True
    """

    image: str | None = None
    label: str | None = None
    key: str | None = None
    optional: bool = False

    def among(self, names: Collection[str]) -> Columns:
        """The columns that a source with these columns is asked for.

        Example:
            >>> Columns("photo", "breed", optional=True).among(["photo", "kind"])
            Columns(image='photo', label=None, key=None, optional=True)
        """
        if not self.optional:
            return self
        image, label, key = (n if n in names else None for n in (self.image, self.label, self.key))
        return replace(self, image=image, label=label, key=key)


DETECTED = Columns()


def as_split(
    rows: datasets.Dataset,
    name: str,
    where: str,
    columns: Columns = DETECTED,
    expected: Sequence[str] | None = None,
) -> Split:
    """Make a split from a table of labeled images. Images are not decoded.

    Args:
        rows: the table.
        name: name of the split. Every class of an undivided table and of "train" must have images.
        where: description of the table, for error messages.
        columns: names of columns that the user gave.
        expected: classes of the training split. A held-out split may lack some of them, which is logged.

    Raises:
        DataError: no rows, fewer than two classes, a class without training images, an image without a label,
            labels that count from 1 instead of 0, a column that does not exist, or several columns that could
            be meant.
        ClassError: a class that ``expected`` lacks, or the same classes with declared positions in another
            order.

    Example:
        >>> cells = [{"bytes": b"", "path": None}] * 3
        >>> rows = datasets.Dataset.from_dict({"image": cells, "label": ["bee", "ant", "bee"]})
        >>> split = as_split(rows, "train", "example")
        >>> split.class_names, split.labels_N.tolist(), split.image_column
        (('ant', 'bee'), [1, 0, 1], 'image')
        >>> as_split(rows, "test", "example", expected=("ant", "bee", "cow")).labels_N.tolist()
        [1, 0, 1]
    """
    if not len(rows):
        raise DataError(f"A split must contain images: {where}", got="no rows", fix="add images to it.")
    columns = columns.among(rows.column_names)
    image_column = _image_column(rows, columns.image, where)
    label_column = _label_column(rows, columns.label, where)
    key_column = _key_column(rows, columns.key, where)
    labels_N, class_names = _labels(rows, label_column, where)
    if expected is not None:
        if set(expected) == set(map(str, range(len(expected)))) and all(map(is_number, class_names)):
            _refuse_counted_from_one([*map(int, class_names)], len(expected), where)
        declared = isinstance(rows.features[label_column], datasets.ClassLabel)
        # Positions that a source declares for the same classes must not contradict each other.
        if declared and set(class_names) == set(expected):
            check_same_classes(expected, class_names, where=where)
        labels_N = torch.tensor(positions_of(expected, class_names, where=where))[labels_N]
        class_names = tuple(expected)
        log_absent(labels_N, class_names, where)
    elif len(class_names) < 2:
        raise DataError(
            f"{where} must have at least two classes", got=", ".join(class_names), fix=f"provide {LAYOUT}"
        )
    if name in (WHOLE, "train"):
        _check_all_classes_have_images(labels_N, class_names, where)
    rows = rows.cast_column(image_column, datasets.Image(decode=False))
    return Split(name, rows, labels_N, class_names, image_column, key_column)


def is_unlabeled(rows: datasets.Dataset, label_column: str | None) -> bool:
    """Whether a table has no label column, or only empty and negative labels in it.

    Args:
        rows: the table.
        label_column: name of the label column, if the user gave it.

    Example:
        >>> rows = datasets.Dataset.from_dict({"id": [7, 8], "label": [-1, -1]})
        >>> is_unlabeled(rows, None), is_unlabeled(rows, "id"), is_unlabeled(rows, "breed")
        (True, False, True)
    """
    column = label_column or next(iter(_label_candidates(rows)), None)
    if column not in rows.column_names:
        return True
    values = rows.select_columns([column])[:][column]
    return all(map(_is_missing, values))


def classes_without_images(labels_N: Tensor, class_names: Sequence[str]) -> list[str]:
    """The names of the classes that no label means, in label order.

    Example:
        >>> classes_without_images(torch.tensor([0, 2]), ("ant", "bee", "cow"))
        ['bee']
    """
    counts_C = torch.bincount(labels_N, minlength=len(class_names)).tolist()
    return [name for name, count in zip(class_names, counts_C, strict=True) if not count]


def log_absent(labels_N: Tensor, class_names: Sequence[str], where: str) -> None:
    """Log one line with the classes that a held-out split has no images of.

    Example:
        >>> log_absent(torch.tensor([0, 1]), ("ant", "bee"), "the test split")
    """
    absent = classes_without_images(labels_N, class_names)
    if absent:
        shares = f"{len(absent)} of {len(class_names)}"
        doubt = COUNTED_FROM_ONE if absent == [class_names[0]] else ""
        logger.warning("%s: classes without images (%s): %s%s", where, shares, first_few(absent), doubt)


def _check_all_classes_have_images(labels_N: Tensor, class_names: Sequence[str], where: str) -> None:
    empty = classes_without_images(labels_N, class_names)
    if empty:
        raise DataError(
            f"Every class of {where} must have images",
            got=f"no images of {first_few(empty)}{COUNTED_FROM_ONE if empty == [class_names[0]] else ''}",
            fix="add images of these classes, or remove their names from the labels.",
        )


def image_and_key_columns(
    rows: datasets.Dataset, where: str, columns: Columns = DETECTED
) -> tuple[str, str | None]:
    """Find the image column and the key column of a table without labels.

    Raises:
        DataError: a column that does not exist, or several columns that could be meant.

    Example:
        >>> cells = [{"bytes": b"", "path": None}] * 2
        >>> rows = datasets.Dataset.from_dict({"photo": cells, "id": ["a", "b"]})
        >>> image_and_key_columns(rows, "example")
        ('photo', 'id')
    """
    columns = columns.among(rows.column_names)
    return _image_column(rows, columns.image, where), _key_column(rows, columns.key, where)


def _given(rows: datasets.Dataset, column: str, option: str, where: str) -> str:
    if column in rows.column_names:
        return column
    hint = nearest(column, rows.column_names, f"The first are {first_few(rows.column_names)}.")
    raise DataError(f"--data.{option} must name a column of {where}", got=repr(column), fix=hint)


def _image_column(rows: datasets.Dataset, given: str | None, where: str) -> str:
    features = dict(rows.features)
    images = [name for name, feature in features.items() if isinstance(feature, datasets.Image)]
    encoded = [name for name, feature in features.items() if _holds_bytes(feature)]
    if given is not None:
        if _given(rows, given, "image_column", where) in images + encoded:
            return given
        rule = f"Column '{given}' of {where} must contain image files"
        raise DataError(rule, got=str(features[given]), fix="name another column with --data.image_column.")
    return _only(images or encoded, "image_column", "contain the images", where, rows)


def _holds_bytes(feature: object) -> bool:
    if isinstance(feature, dict):
        feature = feature.get("bytes")
    return isinstance(feature, datasets.Value) and feature.dtype in ("binary", "large_binary")


def _label_column(rows: datasets.Dataset, given: str | None, where: str) -> str:
    if given is not None:
        return _given(rows, given, "label_column", where)
    return _only(_label_candidates(rows), "label_column", "contain the labels", where, rows)


def _label_candidates(rows: datasets.Dataset) -> list[str]:
    labels = [name for name, feature in rows.features.items() if isinstance(feature, datasets.ClassLabel)]
    preferred = [name for name in LABEL_COLUMNS if name in (labels or rows.column_names)]
    return labels if len(labels) == 1 else preferred[:1] or labels


def _only(candidates: list[str], option: str, purpose: str, where: str, rows: datasets.Dataset) -> str:
    if len(candidates) == 1:
        return candidates[0]
    raise DataError(
        f"Exactly one column of {where} must {purpose}",
        got=f"{len(candidates)} candidates among the columns: {', '.join(candidates or rows.column_names)}",
        fix=f"name the column with --data.{option}.",
    )


def _key_column(rows: datasets.Dataset, given: str | None, where: str) -> str | None:
    if given is not None:
        if _is_unique(rows, _given(rows, given, "key_column", where)):
            return given
        rule = f"Column '{given}' of {where} must contain a different key for each image"
        raise DataError(rule, got="repeated or missing values", fix="remove --data.key_column.")
    for name in KEY_COLUMNS:
        feature = rows.features.get(name)
        if isinstance(feature, datasets.Value) and "string" in feature.dtype and _is_unique(rows, name):
            return name
    return None


def _is_unique(rows: datasets.Dataset, column: str) -> bool:
    values = rows.select_columns([column])[:][column]
    return None not in values and len({str(value) for value in values}) == len(values)


def _labels(rows: datasets.Dataset, column: str, where: str) -> tuple[Tensor, tuple[str, ...]]:
    """Class positions and class names: the names of a ClassLabel, else the values in ascending order."""
    feature = rows.features[column]
    values = rows.select_columns([column])[:][column]
    where = f"label column '{column}' of {where}"
    if isinstance(feature, datasets.ClassLabel):
        names = all_normalized(feature.names, where)
        _refuse_counted_from_one(values, len(names), where)
        _refuse_beyond(values, len(names), where)
    elif not (isinstance(feature, datasets.Value) and re.search(r"^u?int|string", feature.dtype)):
        rule = f"The {where} must contain class labels (ClassLabel, integers or strings)"
        raise DataError(rule, got=str(feature), fix="name another column with --data.label_column.")
    if unlabeled := sum(map(_is_missing, values)):
        raise DataError(
            f"Every image must have a class: {where}",
            got=f"{unlabeled} of {len(values)} rows with an empty or negative label",
            fix="label these rows, or remove them.",
        )
    if not isinstance(feature, datasets.ClassLabel):
        values = [normalized(value) if isinstance(value, str) else value for value in values]
        present = sorted(set(values))
        position = {value: place for place, value in enumerate(present)}
        values, names = [position[value] for value in values], tuple(str(value) for value in present)
    return torch.tensor(values, dtype=torch.int64), names


def _is_missing(label: object) -> bool:
    """Whether a label is empty: nothing, blank text, or a negative integer, as −1 is in many data sets."""
    if isinstance(label, str):
        return not label.strip()
    return label is None or (isinstance(label, int) and label < 0)


def _refuse_beyond(values: Sequence[int | None], classes: int, where: str) -> None:
    """Refuse labels for which there is no class name."""
    beyond = [value for value in values if value is not None and value >= classes]
    if beyond:
        raise DataError(
            f"Integer labels of {classes} classes must be in 0..{classes - 1}: {where}",
            got=f"{len(beyond)} of {len(values)} rows with a larger label, up to {max(beyond)}",
            fix="correct these labels, or add the names of their classes.",
        )


def _refuse_counted_from_one(values: Sequence[int | None], classes: int, where: str) -> None:
    """Labels that reach the number of classes and are never 0 count from 1, whatever else is missing."""
    if classes in values and 0 not in values:
        raise DataError(
            f"Integer labels of {classes} classes must count from 0: {where}",
            got=f"labels up to {classes}, and none is 0",
            fix="subtract 1 from all labels of this split.",
        )
