"""Nested class folders."""

from __future__ import annotations

from pathlib import Path

import pytest

from richkd.core.errors import ConfigError
from tests.data.test_sources import make_folder, open_path, write_parquet
from tests.fixtures import refusal


def test_every_folder_without_inner_folders_is_a_class(tmp_path: Path) -> None:
    layout = {"animals/dogs/husky": 2, "animals/dogs/poodle": 1, "animals/cats": 2, "cars": 1}
    make_folder(tmp_path / "whole", layout)
    data = open_path(tmp_path / "whole", nested_classes=True, test_fraction=0, val_fraction=0)
    assert data.class_names == ("animals/cats", "animals/dogs/husky", "animals/dogs/poodle", "cars")
    split = data.splits["train"]
    keys = split.keys()
    assert [key.rpartition("/")[0] for key in keys] == [data.class_names[y] for y in split.labels_N]
    make_folder(tmp_path / "split", {f"train/{name}": count for name, count in layout.items()})
    make_folder(tmp_path / "split", {"test/animals/cats": 1})
    divided = open_path(tmp_path / "split", nested_classes=True, val_fraction=0)
    assert divided.class_names == data.class_names
    assert divided.splits["test"].keys() == ["test/animals/cats/000.png"]


def test_the_error_of_nested_folders_mentions_the_setting(tmp_path: Path) -> None:
    make_folder(tmp_path, {"a/b": 1, "c": 1})
    assert "--data.nested_classes true" in str(refusal(open_path, tmp_path).fix)


def test_images_beside_folders_and_empty_folders_are_refused(tmp_path: Path) -> None:
    make_folder(tmp_path / "beside", {"a/b": 1, "a": 1, "c": 1})
    make_folder(tmp_path / "empty", {"a/b": 1, "a/d": 0, "c": 1})
    error = refusal(open_path, tmp_path / "beside", nested_classes=True)
    assert "beside/a must contain either images or folders" in str(error)
    assert "1 empty: a/d" in str(refusal(open_path, tmp_path / "empty", nested_classes=True))


def test_nested_calibration_images_have_the_same_names_after_a_prefix(tmp_path: Path) -> None:
    make_folder(tmp_path / "data", {"a/b": 3, "c/d": 3})
    make_folder(tmp_path / "held", {"c/d": 1, "a/b": 1})
    data = open_path(tmp_path / "data", nested_classes=True, calibration=tmp_path / "held")
    assert data.splits["calibration"].keys() == ["calibration/a/b/000.png", "calibration/c/d/000.png"]


@pytest.mark.parametrize("place", ["x.parquet", ""])
def test_the_setting_is_refused_where_it_has_no_effect(tmp_path: Path, place: str) -> None:
    write_parquet(tmp_path / "x.parquet", [0, 1], ["a", "b"])
    error = refusal(open_path, tmp_path / place, nested_classes=True)
    assert isinstance(error, ConfigError)
    assert "data.nested_classes" in str(error)


def test_the_setting_is_refused_for_listings(tmp_path: Path) -> None:
    make_folder(tmp_path, {"images": 2})
    text = "image,label\nimages/000.png,ant\nimages/001.png,bee\n"
    (tmp_path / "train.csv").write_text(text)
    for place in ("train.csv", ""):
        assert isinstance(refusal(open_path, tmp_path / place, nested_classes=True), ConfigError)
