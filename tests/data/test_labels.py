"""Few labels: which training images keep theirs, in any form of data, and what becomes of the others."""

from __future__ import annotations

import io
import logging
import shutil
import tarfile
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from richkd.config.loading import load_config
from richkd.config.schema import DataConfig
from richkd.core.errors import ConfigError, DataError
from richkd.core.seeds import mix_seed
from richkd.core.types import UNLABELED
from richkd.data.labels import labeled_images
from richkd.data.sources import open_data
from richkd.data.split import Data, Split
from tests.data.test_sources import make_folder, write_parquet
from tests.fixtures import refusal

COUNTS = {"ant": 6, "bee": 9, "cow": 2}


def slowly(labels: list[int], keys: list[str], per_class: int) -> list[int]:
    """The positions of the images whose labels are used, one class after another."""
    places = []
    for label in set(labels):
        of_class = [place for place in range(len(labels)) if labels[place] == label]
        of_class.sort(key=lambda place: mix_seed(0, "labels", keys[place]))
        places += of_class[:per_class]
    return sorted(places)


def split_of(labels: list[int], keys: list[str]) -> Split:
    rows = datasets.Dataset.from_dict({"image": [{"bytes": b"", "path": None}] * len(keys), "id": keys})
    return Split("train", rows, torch.tensor(labels), ("ant", "bee", "cow"), "image", "id")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    train = {f"train/{name}": count for name, count in COUNTS.items()}
    return make_folder(tmp_path / "images", train | {f"test/{name}": 2 for name in COUNTS})


def opened(folder: Path, seed: int = 0, **changes: Any) -> Data:
    return open_data(DataConfig(**{"path": str(folder), "val_fraction": 0, **changes}), seed)


def labels_of(split: Split) -> dict[str, int]:
    """The label of each image that has one, by key."""
    pairs = zip(split.keys(), split.labels_N.tolist(), strict=True)
    return {key: label for key, label in pairs if label != UNLABELED}


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 2), min_size=1, max_size=40), st.integers(1, 12), st.data())
def test_the_images_are_those_of_a_slow_version_in_any_order(
    labels: list[int], per_class: int, data: st.DataObject
) -> None:
    keys = [f"{place}.png" for place in range(len(labels))]
    places = labeled_images(split_of(labels, keys), per_class).tolist()
    assert places == slowly(labels, keys, per_class)
    order = data.draw(st.permutations(range(len(labels))))
    shuffled = split_of([labels[place] for place in order], [keys[place] for place in order])
    assert {shuffled.key(place) for place in labeled_images(shuffled, per_class)} == {keys[p] for p in places}
    # The labels of a smaller number are among those of a larger one.
    assert set(places) <= set(labeled_images(split_of(labels, keys), per_class + 1).tolist())


def test_every_place_of_a_class_is_chosen_about_equally_often() -> None:
    counts_40 = np.zeros(40)
    for draw in range(200):
        split = split_of([0] * 40, [f"{draw}/{place}.png" for place in range(40)])
        counts_40[labeled_images(split, 10)] += 1
    # 50 are expected for each place, with a standard deviation of 6.
    assert counts_40.min() > 25
    assert counts_40.max() < 75


@pytest.mark.parametrize("per_class", [1, 3, 6])
def test_labeled_images_and_the_rest_are_the_training_images(folder: Path, per_class: int) -> None:
    whole = opened(folder).splits["train"]
    with_rest = opened(folder, labels_per_class=per_class, unlabeled="rest").splits["train"]
    alone = opened(folder, labels_per_class=per_class).splits["train"]
    assert with_rest.keys() == whole.keys()
    expected = slowly(whole.labels_N.tolist(), whole.keys(), per_class)
    assert (with_rest.labels_N != UNLABELED).nonzero()[:, 0].tolist() == expected
    assert torch.equal(with_rest.labels_N[expected], whole.labels_N[expected])
    assert torch.equal(alone.labels_N, whole.labels_N[expected])
    assert alone.keys() == [whole.key(place) for place in expected]
    assert np.array_equal(alone.read(1), whole.read(expected[1]))


def test_all_labels_are_no_change(folder: Path) -> None:
    whole = opened(folder)
    for unlabeled in (None, "rest"):
        same = opened(folder, labels_per_class=max(COUNTS.values()), unlabeled=unlabeled)
        assert {name: labels_of(split) for name, split in same.splits.items()} == {
            name: labels_of(split) for name, split in whole.splits.items()
        }
        assert same.splits["train"].keys() == whole.splits["train"].keys()


def test_seeds_of_training_have_the_same_labels(folder: Path) -> None:
    first, second = (labels_of(opened(folder, seed, labels_per_class=2).splits["train"]) for seed in (0, 1))
    assert first == second
    assert len(first) == 6


@pytest.mark.parametrize("seed", range(4))
def test_a_label_of_a_validation_image_is_replaced_by_the_next_one(folder: Path, seed: int) -> None:
    whole = opened(folder, seed, val_fraction=0.3)
    few = opened(folder, seed, val_fraction=0.3, labels_per_class=2, unlabeled="rest")
    assert few.splits["val"].keys() == whole.splits["val"].keys()
    assert few.splits["train"].keys() == whole.splits["train"].keys()
    train = whole.splits["train"]
    places = slowly(train.labels_N.tolist(), train.keys(), 2)
    assert labels_of(few.splits["train"]).keys() == {train.key(place) for place in places}


def test_a_validation_split_of_the_data_keeps_all_labels(folder: Path) -> None:
    shutil.copytree(folder / "test", folder / "val")
    few = opened(folder, labels_per_class=1, unlabeled="rest", val_fraction=0.1)
    assert labels_of(few.splits["val"]) == labels_of(opened(folder).splits["val"])
    assert len(labels_of(few.splits["train"])) == len(COUNTS)


def test_data_without_splits_and_calibration_images_keep_their_division(tmp_path: Path) -> None:
    place = make_folder(tmp_path / "images", {"ant": 12, "bee": 12})
    changes = {"test_fraction": 0.25, "val_fraction": 0.25, "test_calibration_fraction": 0.5}
    whole, few = opened(place, 3, **changes), opened(place, 3, labels_per_class=2, **changes)
    for name in ("val", "test", "calibration"):
        assert labels_of(few.splits[name]) == labels_of(whole.splits[name])
    expected = slowly(whole.splits["train"].labels_N.tolist(), whole.splits["train"].keys(), 2)
    assert few.splits["train"].keys() == [whole.splits["train"].key(place) for place in expected]


def as_list(folder: Path, to: Path, patch: Any = None) -> str:
    files = [file.relative_to(to) for file in sorted(folder.rglob("*.png"))]
    lines = [f"{file.as_posix()},{file.parts[-2]},{file.parts[-3]}" for file in files]
    (to / "list.csv").write_text("\n".join(["image,label,split", *lines]))
    return str(to / "list.csv")


def as_parquet(folder: Path, to: Path, patch: Any = None) -> str:
    write_parquet(to / "rows" / "train-0.parquet", [0, 1, 2] * 4, list(COUNTS))
    write_parquet(to / "rows" / "test-0.parquet", [0, 1, 2], list(COUNTS))
    return str(to / "rows")


def as_shards(folder: Path, to: Path, patch: Any = None) -> str:
    (to / "shards").mkdir()
    for split in ("train", "test"):
        with tarfile.open(to / "shards" / f"{split}-0000.tar", "w") as file:
            for number, image in enumerate(sorted((folder / split).rglob("*.png"))):
                texts = {"png": image.read_bytes(), "cls": image.parent.name.encode()}
                for ending, content in texts.items():
                    member = tarfile.TarInfo(f"{number:03}.{ending}")
                    member.size = len(content)
                    file.addfile(member, io.BytesIO(content))
    return str(to / "shards")


def as_hub(folder: Path, to: Path, patch: pytest.MonkeyPatch) -> str:
    as_parquet(folder, to)
    splits = {
        name: datasets.Dataset.from_parquet(str(to / "rows" / f"{name}-0.parquet"))
        for name in ("train", "test")
    }
    patch.setattr(datasets, "load_dataset", lambda path: datasets.DatasetDict(splits))
    return "someone/insects"


@pytest.mark.parametrize("form", [as_list, as_parquet, as_shards, as_hub])
def test_every_form_of_data_has_few_labels(
    folder: Path, tmp_path: Path, form: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = Path(form(folder, tmp_path, monkeypatch))
    whole = opened(path).splits["train"]
    few = opened(path, labels_per_class=2, unlabeled="rest").splits["train"]
    expected = slowly(whole.labels_N.tolist(), whole.keys(), 2)
    assert few.keys() == whole.keys()
    assert labels_of(few).keys() == {whole.key(place) for place in expected}
    assert opened(path, labels_per_class=2).splits["train"].keys() == [whole.key(p) for p in expected]


def test_a_class_with_few_images_is_named(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        train = opened(folder, labels_per_class=6).splits["train"]
    (line,) = caplog.messages
    assert line == f"{folder}: classes with fewer than 6 training images keep all labels (1 of 3): cow"
    assert torch.bincount(train.labels_N).tolist() == [6, 6, 2]
    caplog.clear()
    opened(folder, labels_per_class=2)
    assert not caplog.messages


def test_small_classes_have_the_names_of_the_user(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "names.txt").write_text("emmet\nhoneybee\ncattle\n")
    opened(folder, labels_per_class=3, class_names=tmp_path / "names.txt")
    assert caplog.messages[-1].endswith("(1 of 3): cattle")


@pytest.mark.parametrize("number", [0, -1, 1.5, "five"])
def test_the_number_must_be_positive(number: Any) -> None:
    given = {"data.path": "photos", "student.name": "resnet18", "data.labels_per_class": number}
    error = refusal(load_config, None, given)
    assert isinstance(error, ConfigError)
    assert "'data.labels_per_class' does not take this value" in str(error)


def test_a_rest_needs_a_number_and_a_training_split(folder: Path, tmp_path: Path) -> None:
    error = refusal(opened, folder, unlabeled="rest")
    assert isinstance(error, ConfigError)
    assert "data.unlabeled rest needs data.labels_per_class" in str(error)
    assert "add --data.labels_per_class N, or remove --unlabeled" in str(error.fix)
    only_test = make_folder(tmp_path / "tests", {"test/ant": 2, "test/bee": 2})
    error = refusal(opened, only_test, labels_per_class=1)
    assert isinstance(error, DataError)
    assert "data.labels_per_class needs a training split" in str(error)


def test_a_class_and_a_folder_may_be_called_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_folder(tmp_path / "images", {"train/ant": 4, "train/rest": 4})
    make_folder(tmp_path, {"rest": 3})
    # A source of unlabeled images inside of the data would be no class.
    for path in (tmp_path / "images", tmp_path / "images" / "train"):
        monkeypatch.chdir(tmp_path / "images" / "train")
        train = opened(path, labels_per_class=1, unlabeled="rest", test_fraction=0).splits["train"]
        assert train.class_names == ("ant", "rest")
        assert len(train) == 8
    monkeypatch.chdir(tmp_path)
    more = opened(tmp_path / "images", labels_per_class=1, unlabeled="./rest").splits["train"]
    assert (len(labels_of(more)), len(more)) == (2, 5)


def test_a_source_without_labels_is_added_to_few_labels(folder: Path, tmp_path: Path) -> None:
    more = make_folder(tmp_path / "more", {".": 3})
    train = opened(folder, labels_per_class=2, unlabeled=str(more)).splits["train"]
    assert labels_of(train) == labels_of(opened(folder, labels_per_class=2).splits["train"])
    assert train.labels_N.tolist()[-3:] == [UNLABELED] * 3
    assert len(train) == 9


@pytest.mark.parametrize("unlabeled", [None, "rest"])
def test_folds_divide_the_labeled_images(folder: Path, unlabeled: str | None) -> None:
    whole = opened(folder, labels_per_class=4, unlabeled=unlabeled).splits["train"]
    left_out: dict[str, int] = {}
    for fold in range(2):
        data = opened(folder, labels_per_class=4, unlabeled=unlabeled, exclude_fold=(fold, 2))
        out, train = data.splits["left-out"], data.splits["train"]
        assert torch.bincount(out.labels_N).tolist() == [2, 2, 1]
        assert labels_of(out) | labels_of(train) == labels_of(whole)
        assert len(train) + len(out) == len(whole)
        left_out |= labels_of(out)
    assert left_out == labels_of(whole)


def test_there_are_no_more_folds_than_labels(folder: Path) -> None:
    error = refusal(opened, folder, labels_per_class=1, unlabeled="rest", exclude_fold=(0, 4))
    assert "4 folds of 3 images" in str(error)


def test_wrong_labels_of_the_rest_are_never_read(folder: Path, tmp_path: Path) -> None:
    path = Path(as_list(folder, tmp_path))
    right = opened(path, labels_per_class=2, unlabeled="rest").splits["train"]
    last = max(mix_seed(0, "labels", key) for key in labels_of(right))
    lines = path.read_text().splitlines()
    for number, line in enumerate(lines):
        key, label, split = line.split(",")
        # No class has such an image among its first ones, whatever its label is.
        if split == "train" and mix_seed(0, "labels", key) > last:
            lines[number] = f"{key},{'ant' if label == 'bee' else 'bee'},{split}"
    assert lines != path.read_text().splitlines()
    path.write_text("\n".join(lines))
    wrong = opened(path).splits["train"]
    assert labels_of(wrong).items() >= labels_of(right).items()
    again = opened(path, labels_per_class=2, unlabeled="rest").splits["train"]
    assert again.keys() == right.keys()
    assert torch.equal(again.labels_N, right.labels_N)
