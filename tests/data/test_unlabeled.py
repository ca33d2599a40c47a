"""Unlabeled images: opened from any source, added to train, and rejected if they are also test images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

from richkd.config.schema import DataConfig
from richkd.core.errors import DataError
from richkd.core.types import UNLABELED
from richkd.data.sources import open_data
from richkd.data.split import Data
from richkd.data.unlabeled import refuse_tested, with_unlabeled
from tests.data.test_sources import make_folder, write_parquet
from tests.fixtures import refusal


@pytest.fixture
def labeled(tmp_path: Path) -> Path:
    layout = {f"train/{name}": 3 for name in ("ant", "bee")} | {f"test/{name}": 2 for name in ("ant", "bee")}
    return make_folder(tmp_path / "labeled", layout)


def open_both(labeled: Path, unlabeled: Path | str, **changes: Any) -> Data:
    settings = {"path": str(labeled), "val_fraction": 0, "unlabeled": str(unlabeled)}
    return open_data(DataConfig(**settings | changes))


def test_nested_folders_follow_the_labeled_images(labeled: Path, tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "more", {".": 2, "deep/er": 1})
    train = open_both(labeled, folder).splits["train"]
    assert train.labels_N.tolist() == [0, 0, 0, 1, 1, 1] + [UNLABELED] * 3
    assert train.keys()[:2] == ["train/ant/000.png", "train/ant/001.png"]
    assert train.keys()[6:] == ["000.png", "001.png", "deep/er/000.png"]
    for place, file in ((6, "000.png"), (8, "deep/er/000.png")):
        assert np.array_equal(train.read(place), Image.open(folder / file))
    assert np.array_equal(train.read(4), Image.open(labeled / "train/bee/001.png"))


def test_labeled_images_keep_their_keys_and_order_after_division(tmp_path: Path) -> None:
    write_parquet(tmp_path / "data" / "train.parquet", [0, 1] * 10, ["ant", "bee"])
    config = DataConfig(path=str(tmp_path / "data"), val_fraction=0.2)
    plain = open_data(config)
    write_parquet(tmp_path / "more.parquet", [0] * 3)
    joined = with_unlabeled(plain, str(tmp_path / "more.parquet"))
    before, after = plain.splits["train"], joined.splits["train"]
    assert after.keys() == [*before.keys(), "unlabeled[0]", "unlabeled[1]", "unlabeled[2]"]
    assert joined.splits["val"] is plain.splits["val"]
    assert np.array_equal(after.read(3), before.read(3))
    opened = open_data(config.model_copy(update={"unlabeled": str(tmp_path / "more.parquet")}))
    assert opened.splits["train"].keys() == after.keys()
    assert torch.equal(opened.splits["train"].labels_N, after.labels_N)
    assert opened.splits["val"].keys() == plain.splits["val"].keys()


def test_columns_may_have_other_names_and_labels_are_ignored(labeled: Path, tmp_path: Path) -> None:
    file = write_parquet(tmp_path / "more.parquet", [7, 8], column="fine", extra={"id": ["x", "y"]})
    rows = datasets.load_dataset("parquet", data_files=str(file), split="train")
    rows.rename_column("image", "picture").to_parquet(str(file))
    train = open_both(labeled, file).splits["train"]
    assert train.labels_N[-2:].tolist() == [UNLABELED, UNLABELED]
    assert train.keys()[-2:] == ["x", "y"]
    assert train.read(7).size == (3, 3)


def test_equal_keys_get_a_prefix(labeled: Path, tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "more", {"train/ant": 1, "b": 1})
    assert open_both(labeled, folder).splits["train"].keys()[-2:] == [
        "unlabeled/b/000.png",
        "unlabeled/train/ant/000.png",
    ]


def test_keys_of_test_images_get_a_prefix_too(labeled: Path, tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "more", {"test/ant": 1})
    assert open_both(labeled, folder).splits["train"].keys()[-1] == "unlabeled/test/ant/000.png"


def test_columns_of_the_data_are_asked_for_where_there_are_some(tmp_path: Path) -> None:
    file = write_parquet(tmp_path / "data.parquet", ["ant", "bee"] * 4, extra={"uid": list(range(8))})
    folder = make_folder(tmp_path / "more", {".": 1})
    given = {"image_column": "image", "key_column": "uid", "test_fraction": 0}
    assert open_both(file, folder, **given).splits["train"].keys()[-2:] == ["7", "000.png"]
    other = write_parquet(tmp_path / "other.parquet", [0, 1], extra={"uid": [70, 80]})
    assert open_both(file, other, **given).splits["train"].keys()[-2:] == ["70", "80"]


def test_a_folder_inside_the_data_folder_is_not_labeled_data(labeled: Path) -> None:
    folder = make_folder(labeled / "rest", {".": 2})
    assert isinstance(refusal(open_data, DataConfig(path=str(labeled))), DataError)
    assert len(open_both(labeled, folder).splits["train"]) == 8


@pytest.mark.parametrize("name", ["unlabeled", "unlabelled", "unsupervised"])
def test_the_unlabeled_split_of_the_hub_is_used(
    labeled: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    splits = {
        split: datasets.Dataset.from_dict(
            {"image": [Image.new("RGB", (4, 4), (value, 0, 0))] * value}
        ).cast_column("image", datasets.Image())
        for split, value in (("train", 1), (name, 2))
    }
    monkeypatch.setattr(datasets, "load_dataset", lambda path: datasets.DatasetDict(splits))
    assert len(open_both(labeled, "someone/something").splits["train"]) == 8


def test_empty_and_missing_sources_are_rejected(labeled: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert "must contain unlabeled images" in str(refusal(open_both, labeled, tmp_path / "empty"))
    assert "must exist" in str(refusal(open_both, labeled, tmp_path / "missing"))
    only_test = make_folder(tmp_path / "tests", {"test/ant": 2, "test/bee": 2})
    assert "training split" in str(refusal(open_both, only_test, labeled))


@pytest.mark.parametrize("suffix", ["png", "bmp"])
def test_a_test_image_is_rejected_under_any_name(labeled: Path, tmp_path: Path, suffix: str) -> None:
    folder = make_folder(tmp_path / "more", {".": 2})
    refuse_tested(open_both(labeled, folder), workers=1)
    Image.open(labeled / "test/bee/001.png").save(folder / f"innocent.{suffix}")
    error = refusal(refuse_tested, open_both(labeled, folder), 1)
    assert isinstance(error, DataError)
    assert f"innocent.{suffix} = test/bee/001.png" in str(error)
    # A labeled training image is allowed: the student is trained on it in any case.
    (folder / f"innocent.{suffix}").unlink()
    Image.open(labeled / "train/bee/001.png").save(folder / "again.png")
    refuse_tested(open_both(labeled, folder), workers=1)
