"""The number of folds can be left out in settings."""

from __future__ import annotations

from typing import Any

import pytest

from richkd.config.folds import FOLDS
from richkd.config.loading import load_config
from tests.fixtures import refusal

BASE = {"data.path": "photos", "student.name": "resnet18"}


@pytest.mark.parametrize(
    ("given", "meant"),
    [("2", (2, FOLDS)), (2, (2, FOLDS)), ("[2, 3]", (2, 3)), ("null", None), ((0, 4), (0, 4))],
)
def test_a_fold_alone_is_one_of_the_default_number(given: Any, meant: object) -> None:
    assert FOLDS == 5
    assert load_config(None, BASE | {"data.exclude_fold": given}).data.exclude_fold == meant


@pytest.mark.parametrize("given", ["true", "1.5", "two", "[1]", "[1, 2, 3]"])
def test_what_is_no_fold_is_refused(given: str) -> None:
    assert "data.exclude_fold" in refusal(load_config, None, BASE | {"data.exclude_fold": given}).rule


@pytest.mark.parametrize("share", ["-0.1", "1.1", ".nan", "half", "[0.5]"])
def test_a_share_out_of_range_is_refused(share: str) -> None:
    settings = BASE | {"teachers.1.name": "folds:runs/folds", "teachers.1.fold_share": share}
    assert "teachers.1.fold_share" in refusal(load_config, None, settings).rule
