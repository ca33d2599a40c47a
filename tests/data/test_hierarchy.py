"""Hierarchies from files: every class is in one superclass, and the errors for invalid files."""

from __future__ import annotations

from pathlib import Path

import pytest

from richkd.core.errors import ClassError
from richkd.data.hierarchy import read_hierarchy, superclasses_of
from tests.fixtures import refusal

CLASSES = ("ant", "brown_bear", "cow")


def written(folder: Path, text: str) -> Path:
    file = folder / "tree.yaml"
    file.write_text(text, encoding="utf-8")
    return file


def test_each_class_has_its_superclass(tmp_path: Path) -> None:
    result = read_hierarchy(written(tmp_path, "insect: [ant]\nmammal: [cow, brown bear]"), CLASSES)
    assert read_hierarchy(str(tmp_path / "tree.yaml"), CLASSES) == result
    assert result.superclasses == ("insect", "mammal")
    assert result.superclass_of_C == (0, 1, 1)
    assert result.names() == ["insect", "mammal", "mammal"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("insect: [ant]\nmammal: [cow]", "1 without a superclass, the first is 'brown_bear'"),
        ("insect: [ant, cow]\nmammal: [cow, brown_bear]", "'insect' and 'mammal'"),
        ("insect: [ant]\nmammal: [cow, brown_beer]", "Did you mean 'brown_bear'"),
        ("insect: []\nmammal: [ant, cow, brown_bear]", "'insect'"),
        ("insect: ant", "must list its classes"),
        ("- ant", "must map superclasses to classes"),
        ("insect: [ant]\ninsect: [cow]", "appears twice"),
    ],
)
def test_invalid_hierarchies_are_rejected(tmp_path: Path, text: str, words: str) -> None:
    error = refusal(read_hierarchy, written(tmp_path, text), CLASSES)
    assert isinstance(error, ClassError)
    assert words in str(error)
    assert "cannot be read" in str(refusal(read_hierarchy, tmp_path / "none.yaml", CLASSES))


@pytest.mark.parametrize("text", ["all: [ant, cow, brown_bear]", "{a: [ant], b: [cow], c: [brown_bear]}"])
def test_answers_are_not_judged_by_superclasses_that_group_nothing(tmp_path: Path, text: str) -> None:
    path = written(tmp_path, text)
    error = str(refusal(superclasses_of, CLASSES, path))
    assert "several superclasses" in error
    assert str(path) in error
    # Prompts may still name them.
    assert len(read_hierarchy(path, CLASSES).names()) == 3
