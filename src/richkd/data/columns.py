"""From a table to a split: which columns hold images, labels and keys, and what the classes are called."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import datasets
import torch
from torch import Tensor

from richkd.core.errors import ClassError, DataError, nearest
from richkd.data.split import Split
from richkd.data.tables import LAYOUT, WHOLE, some

LABEL_COLUMNS = ("label", "labels", "fine_label")
KEY_COLUMNS = ("file", "file_name", "filename", "path", "id")


def as_split(
    rows: datasets.Dataset,
    name: str,
    where: str,
    image_column: str | None,
    label_column: str | None,
    key_column: str | None,
) -> Split:
    if not len(rows):
        raise DataError(f"A split must hold images: {where}", got="no rows", fix="add images to it.")
    image_column = _image_column(rows, image_column, where)
    label_column = _label_column(rows, label_column, where)
    key_column = _key_column(rows, key_column, where)
    labels_N, class_names = _labels(rows, label_column, where)
    if len(class_names) < 2:
        raise DataError(
            f"{where} must have at least two classes", got=", ".join(class_names), fix=f"give {LAYOUT}"
        )
    if name in (WHOLE, "train"):
        counts_C = torch.bincount(labels_N, minlength=len(class_names)).tolist()
        bare = [name for name, count in zip(class_names, counts_C, strict=True) if not count]
        if bare:
            raise DataError(
                f"Every class of {where} must have images", got=f"none of {some(bare)}", fix="add some."
            )
    rows = rows.cast_column(image_column, datasets.Image(decode=False))
    return Split(name, rows, labels_N, class_names, image_column, key_column)


def image_and_key_columns(
    rows: datasets.Dataset, where: str, image_column: str | None, key_column: str | None
) -> tuple[str, str | None]:
    """The columns of images and keys in a table without labels."""
    return _image_column(rows, image_column, where), _key_column(rows, key_column, where)


def _given(rows: datasets.Dataset, column: str, option: str, where: str) -> str:
    if column in rows.column_names:
        return column
    hint = nearest(column, rows.column_names)
    raise DataError(f"--data.{option} must name a column of {where}", got=repr(column), fix=hint)


def _image_column(rows: datasets.Dataset, given: str | None, where: str) -> str:
    features = dict(rows.features)
    images = [name for name, feature in features.items() if isinstance(feature, datasets.Image)]
    encoded = [name for name, feature in features.items() if _holds_bytes(feature)]
    if given is not None:
        if _given(rows, given, "image_column", where) in images + encoded:
            return given
        rule = f"Column '{given}' of {where} must hold image files"
        raise DataError(rule, got=str(features[given]), fix="name another column with --data.image_column.")
    return _only(images or encoded, "image_column", "hold the images", where, rows)


def _holds_bytes(feature: object) -> bool:
    if isinstance(feature, dict):
        return _holds_bytes(feature.get("bytes"))
    return isinstance(feature, datasets.Value) and feature.dtype in ("binary", "large_binary")


def _label_column(rows: datasets.Dataset, given: str | None, where: str) -> str:
    if given is not None:
        return _given(rows, given, "label_column", where)
    labels = [name for name, feature in rows.features.items() if isinstance(feature, datasets.ClassLabel)]
    preferred = [name for name in LABEL_COLUMNS if name in (labels or rows.column_names)]
    candidates = labels if len(labels) == 1 else preferred[:1] or labels
    return _only(candidates, "label_column", "hold the labels", where, rows)


def _only(candidates: list[str], option: str, purpose: str, where: str, rows: datasets.Dataset) -> str:
    if len(candidates) == 1:
        return candidates[0]
    raise DataError(
        f"One column of {where} must {purpose}",
        got=f"{len(candidates)} candidates among the columns: {', '.join(candidates or rows.column_names)}",
        fix=f"name the column with --data.{option}.",
    )


def _key_column(rows: datasets.Dataset, given: str | None, where: str) -> str | None:
    if given is not None:
        if _is_unique(rows, _given(rows, given, "key_column", where)):
            return given
        rule = f"Column '{given}' of {where} must name every image differently"
        raise DataError(rule, got="a value that repeats or is missing", fix="leave --data.key_column out.")
    for name in KEY_COLUMNS:
        feature = rows.features.get(name)
        if isinstance(feature, datasets.Value) and "string" in feature.dtype and _is_unique(rows, name):
            return name
    return None


def _is_unique(rows: datasets.Dataset, column: str) -> bool:
    values = rows.select_columns([column])[:][column]
    return None not in values and len({str(value) for value in values}) == len(values)


def _labels(rows: datasets.Dataset, column: str, where: str) -> tuple[Tensor, tuple[str, ...]]:
    """Positions of the labels, and the class names: a ClassLabel's own, else the values in rising order."""
    feature = rows.features[column]
    values = rows.select_columns([column])[:][column]
    where = f"label column '{column}' of {where}"
    if isinstance(feature, datasets.ClassLabel):
        names = tuple(feature.names)
        unlabeled = sum(value is None or not 0 <= value < len(names) for value in values)
    elif isinstance(feature, datasets.Value) and re.search(r"^u?int|string", feature.dtype):
        unlabeled = sum(value is None for value in values)
    else:
        raise DataError(
            f"The {where} must hold classes", got=str(feature), fix="name it with --data.label_column."
        )
    if unlabeled:
        rule = f"Every image must have a class: {where}"
        raise DataError(rule, got=f"{unlabeled} of {len(values)} without one", fix="take these rows out.")
    if not isinstance(feature, datasets.ClassLabel):
        present = sorted(set(values))
        position = {value: place for place, value in enumerate(present)}
        values, names = [position[value] for value in values], tuple(str(value) for value in present)
    return torch.tensor(values, dtype=torch.int64), names


def read_names(file: Path, classes: int) -> tuple[str, ...]:
    try:
        names = [
            line.strip() for line in file.expanduser().read_text(encoding="utf-8-sig").rstrip().splitlines()
        ]
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"Class names in {file} must be readable UTF-8 text", got=str(error)) from error
    if len(names) != classes:
        rule = f"{file} must have a name for each of the {classes} classes"
        raise ClassError(rule, got=f"{len(names)} lines", fix="write one name a line, in label order.")
    return tuple(names)


def check_names(names: Sequence[str], where: str) -> None:
    """Two names that differ in underscores or blanks alone would give the two classes the same prompts."""
    first: dict[str, str] = {}
    for position, name in enumerate(names):
        clean = " ".join(name.replace("_", " ").split())
        if not clean or clean in first:
            got = f"{name!r} and {first[clean]!r}" if clean else f"an empty name for class {position}"
            raise ClassError(
                f"Every class of {where} must have its own name", got=got, fix="rename one of them."
            )
        first[clean] = name
