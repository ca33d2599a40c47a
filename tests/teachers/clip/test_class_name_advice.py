"""Advice on class names: what is found, what is not, and that real data sets are left in peace."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from richkd.teachers.clip.class_name_advice import HOMONYMS, advise_on_names


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("n01440764", "WordNet"),
        ("7", "number"),
        ("007", "number"),
        ("cls_07", "number"),
        ("c12", "number"),
        ("crane", "bird or the machine"),
        ("Mouse", "computer"),
        ("ox", "too short"),
    ],
)
def test_names_that_mislead(name: str, problem: str) -> None:
    (advice,) = advise_on_names(["tabby cat", name])
    assert advice.class_name == name
    assert problem in advice.problem
    assert "--" in advice.advice


def test_names_that_read_alike() -> None:
    (advice,) = advise_on_names(["fire_truck", "tabby cat", "Fire truck"])
    assert advice.class_name == "Fire truck"
    assert "fire_truck" in advice.problem


@given(st.sampled_from(["aquarium_fish", "Boeing 747", "crane fly", "computer mouse", "T-shirt", "4x4 car"]))
def test_names_that_say_what_they_mean(name: str) -> None:
    assert advise_on_names([name]) == []


def test_homonyms_can_be_met() -> None:
    # The table is looked up by cleaned names in lower case, so nothing else in it could ever match.
    assert all(name == name.casefold().strip() and len(name) >= 3 for name in HOMONYMS)


def test_real_classes_get_few_remarks(data_dir: Path) -> None:
    stored = np.load(data_dir / "clip-vitb32" / "caltech101_clip_vitb32.npz")
    advice = advise_on_names([str(name) for name in stored["classnames"]])
    assert len(advice) <= 3
