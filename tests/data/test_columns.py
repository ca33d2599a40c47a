"""Integer labels that count from 1 are told from those that count from 0."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from datasets import ClassLabel, Dataset, Features, Image

from richkd.core.errors import ClassError, DataError
from richkd.data.classes import read_names
from richkd.data.columns import as_split, is_unlabeled
from tests.fixtures import refusal

NAMES = ("ant", "bee", "cow")


def declared(labels: list[int], names: tuple[str, ...] = NAMES) -> Dataset:
    """A table whose labels have declared names. Formats other than this library write values unchecked."""
    rows = plain(labels)
    return rows.cast_column("label", ClassLabel(names=list(names)))


def unchecked(labels: list[int]) -> Dataset:
    """A table whose declared labels can be any numbers, as files of other programs have them."""
    table = plain(labels)
    rows = Dataset(table.data, info=table.info.copy())
    rows.info.features = Features({"image": Image(decode=False), "label": ClassLabel(names=list(NAMES))})
    return rows


def plain(labels: list[int]) -> Dataset:
    cells = [{"bytes": b"", "path": None}] * len(labels)
    return Dataset.from_dict({"image": cells, "label": labels}).cast_column("image", Image(decode=False))


@pytest.mark.parametrize("name", ["\u00b2", "1" * 5000])
def test_names_of_digits_need_not_be_numbers(name: str) -> None:
    rows = plain([0, 1]).remove_columns(["label"]).add_column("label", ["0", name])
    error = refusal(as_split, rows, "test", "zoo", expected=("0", "1"))
    assert isinstance(error, ClassError)
    assert name in str(error)


def test_bytes_inside_of_an_inner_struct_are_no_images() -> None:
    rows = Dataset.from_dict({"image": [{"bytes": {"bytes": b""}}] * 2, "label": [0, 1]})
    assert "0 candidates" in str(refusal(as_split, rows, "test", "zoo").got)


def test_declared_labels_up_to_the_number_of_classes_are_refused() -> None:
    error = refusal(as_split, unchecked([1, 2, 3]), "test", "zoo", expected=NAMES)
    assert isinstance(error, DataError)
    assert "Integer labels of 3 classes must count from 0" in error.rule
    assert error.got == "labels up to 3, and none is 0"


def test_declared_labels_without_the_first_class_are_doubted(caplog: pytest.LogCaptureFixture) -> None:
    error = refusal(as_split, declared([1, 2]), "train", "zoo")
    assert (
        error.got
        == "no images of ant; if labels are integers that count from 1, every image is read as another class"
    )
    with caplog.at_level(logging.WARNING):
        as_split(declared([1, 2]), "test", "zoo", expected=NAMES)
        as_split(declared([0, 1]), "test", "zoo", expected=NAMES)
    assert ["count from 1" in record.message for record in caplog.records] == [True, False]


def test_a_split_that_counts_from_one_beside_one_that_counts_from_zero(
    caplog: pytest.LogCaptureFixture,
) -> None:
    expected = ("0", "1", "2")
    assert "must count from 0" in refusal(as_split, plain([1, 2, 3]), "test", "zoo", expected=expected).rule
    assert "must count from 0" in refusal(as_split, plain([1, 3]), "test", "zoo", expected=expected).rule
    with caplog.at_level(logging.WARNING):
        split = as_split(plain([1, 2]), "test", "zoo", expected=expected)
    assert split.labels_N.tolist() == [1, 2]
    assert "count from 1" in caplog.records[0].message
    # Both splits count from 1.
    assert as_split(plain([1, 3]), "test", "zoo", expected=("1", "2", "3")).labels_N.tolist() == [0, 2]


@pytest.mark.parametrize(
    ("labels", "names", "got"),
    [
        (("1", "2", "4"), 4, "4 lines; no images of label 3"),
        (("0", "1", "3"), 4, "4 lines; no images of label 2"),
        (("1", "2", "3"), 4, "4 lines; no images of label 0, or of label 4 if labels count from 1"),
        (("0", "1", "2"), 4, "4 lines; no images of label 3"),
        (("ant", "bee", "cow"), 4, "4 lines"),
        (("1", "2", "3"), 2, "2 lines"),
        (("1", "2", "9"), 4, "4 lines"),
    ],
)
def test_names_of_more_classes_than_the_data_have(
    labels: tuple[str, ...], names: int, got: str, tmp_path: Path
) -> None:
    file = tmp_path / "names.txt"
    file.write_text("\n".join(f"name {number}" for number in range(names)))
    error = refusal(read_names, file, len(labels), labels)
    assert isinstance(error, ClassError)
    assert error.got == got


def test_declared_labels_beyond_the_names_are_no_missing_ones() -> None:
    error = refusal(as_split, unchecked([0, 1, 5, 1]), "test", "zoo", expected=NAMES)
    assert "Integer labels of 3 classes must be in 0..2" in error.rule
    assert error.got == "1 of 4 rows with a larger label, up to 5"


@pytest.mark.parametrize("blank", ["", "  ", None])
def test_blank_labels_are_missing_and_no_class(blank: str | None) -> None:
    rows = plain([0, 1]).remove_columns(["label"]).add_column("label", ["ant", blank])
    error = refusal(as_split, rows, "train", "zoo")
    assert error.got == "1 of 2 rows with an empty or negative label"
    assert not is_unlabeled(rows, None)
    assert is_unlabeled(rows.select([1]), None)


def test_missing_declared_labels_are_counted() -> None:
    error = refusal(as_split, unchecked([0, -1, -1, 1]), "test", "zoo", expected=NAMES)
    assert error.got == "2 of 4 rows with an empty or negative label"
