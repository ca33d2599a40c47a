"""Splits of a data set of the hub, by their names."""

from __future__ import annotations

import datasets
import pytest

from richkd.core.errors import DataError
from richkd.data.formats import hub
from richkd.data.formats.scan import WHOLE
from tests.fixtures import refusal


def splits_of(monkeypatch: pytest.MonkeyPatch, *names: str) -> dict[str, int]:
    """The number of rows of each split; the first name has one row, the second two, and so on."""
    tables = {name: datasets.Dataset.from_dict({"x": [0] * rows}) for rows, name in enumerate(names, start=1)}
    monkeypatch.setattr(hub, "load_hub", lambda path: tables)
    return {split: len(table) for split, table in hub.open_hub("jane/birds").items()}


def test_known_names_are_used_and_others_left_out(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert splits_of(monkeypatch, "train", "Validation", "test") == {"train": 1, "val": 2, "test": 3}
    assert not caplog.records
    assert splits_of(monkeypatch, "train", "extra") == {"train": 1}
    assert "not all of train, extra" in caplog.text
    assert splits_of(monkeypatch, "everything") == {WHOLE: 1}


def test_two_names_of_one_split_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    error = refusal(splits_of, monkeypatch, "train", "validation", "dev")
    assert isinstance(error, DataError)
    assert error.got == "validation and dev"


def test_several_splits_without_a_known_name_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    error = refusal(splits_of, monkeypatch, "fold1", "fold2")
    assert isinstance(error, DataError)
    assert "must have a train, validation or test split" in error.rule
    assert error.got == "fold1, fold2"
