"""Images without labels: opened from anywhere, joined to train, and never ones that are tested on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

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


def opened(labeled: Path, unlabeled: Path | str, **changes: Any) -> Data:
    return with_unlabeled(open_data(str(labeled), val_fraction=0), str(unlabeled), **changes)


def test_nested_folders_follow_the_labeled_images(labeled: Path, tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "more", {".": 2, "deep/er": 1})
    train = opened(labeled, folder).splits["train"]
    assert train.labels_N.tolist() == [0, 0, 0, 1, 1, 1] + [UNLABELED] * 3
    assert train.keys()[:2] == ["train/ant/000.png", "train/ant/001.png"]
    assert train.keys()[6:] == ["000.png", "001.png", "deep/er/000.png"]
    for place, file in ((6, "000.png"), (8, "deep/er/000.png")):
        assert np.array_equal(train.read(place), Image.open(folder / file))
    assert np.array_equal(train.read(4), Image.open(labeled / "train/bee/001.png"))


def test_labeled_images_keep_keys_and_places_of_a_split_that_was_divided(tmp_path: Path) -> None:
    write_parquet(tmp_path / "data" / "train.parquet", [0, 1] * 10, ["ant", "bee"])
    plain = open_data(str(tmp_path / "data"), val_fraction=0.2)
    write_parquet(tmp_path / "more.parquet", [0] * 3)
    joined = with_unlabeled(plain, str(tmp_path / "more.parquet"))
    before, after = plain.splits["train"], joined.splits["train"]
    assert after.keys() == [*before.keys(), "unlabeled[0]", "unlabeled[1]", "unlabeled[2]"]
    assert joined.splits["val"] is plain.splits["val"]
    assert np.array_equal(after.read(3), before.read(3))


def test_columns_of_other_names_and_labels_that_nobody_reads(labeled: Path, tmp_path: Path) -> None:
    file = write_parquet(tmp_path / "more.parquet", [7, 8], column="fine", extra={"id": ["x", "y"]})
    rows = datasets.load_dataset("parquet", data_files=str(file), split="train")
    rows.rename_column("image", "picture").to_parquet(str(file))
    train = opened(labeled, file).splits["train"]
    assert train.labels_N[-2:].tolist() == [UNLABELED, UNLABELED]
    assert train.keys()[-2:] == ["x", "y"]
    assert train.read(7).size == (3, 3)


def test_equal_keys_are_told_apart(labeled: Path, tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "more", {"train/ant": 1, "b": 1})
    assert opened(labeled, folder).splits["train"].keys()[-2:] == [
        "unlabeled/b/000.png",
        "unlabeled/train/ant/000.png",
    ]


def test_a_folder_inside_the_data_is_no_part_of_them(labeled: Path) -> None:
    folder = make_folder(labeled / "rest", {".": 2})
    assert isinstance(refusal(open_data, str(labeled)), DataError)
    data = open_data(str(labeled), val_fraction=0, beside=[folder])
    assert len(with_unlabeled(data, str(folder)).splits["train"]) == 8


def test_the_hubs_unlabeled_split_is_taken(labeled: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    splits = {
        name: datasets.Dataset.from_dict(
            {"image": [Image.new("RGB", (4, 4), (value, 0, 0))] * value}
        ).cast_column("image", datasets.Image())
        for name, value in (("train", 1), ("unsupervised", 2))
    }
    monkeypatch.setattr(datasets, "load_dataset", lambda path: datasets.DatasetDict(splits))
    assert len(opened(labeled, "someone/something").splits["train"]) == 8


def test_nothing_and_nowhere_are_refused(labeled: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    assert "must hold unlabeled images" in str(refusal(opened, labeled, tmp_path / "empty"))
    assert "must exist" in str(refusal(opened, labeled, tmp_path / "missing"))
    only_test = make_folder(tmp_path / "tests", {"test/ant": 2, "test/bee": 2})
    assert "training split" in str(refusal(opened, only_test, labeled))


@pytest.mark.parametrize("suffix", ["png", "bmp"])
def test_an_image_that_is_tested_on_is_refused_under_any_name(
    labeled: Path, tmp_path: Path, suffix: str
) -> None:
    folder = make_folder(tmp_path / "more", {".": 2})
    refuse_tested(opened(labeled, folder), workers=1)
    Image.open(labeled / "test/bee/001.png").save(folder / f"innocent.{suffix}")
    error = refusal(refuse_tested, opened(labeled, folder), 1)
    assert isinstance(error, DataError)
    assert f"innocent.{suffix} = test/bee/001.png" in str(error)
    # A labeled image may be there again: it is trained on in any case.
    (folder / f"innocent.{suffix}").unlink()
    Image.open(labeled / "train/bee/001.png").save(folder / "again.png")
    refuse_tested(opened(labeled, folder), workers=1)


def test_a_share_of_test_becomes_the_calibration_split(tmp_path: Path) -> None:
    write_parquet(tmp_path / "train.parquet", [0, 1] * 5, ["ant", "bee"])
    write_parquet(tmp_path / "test.parquet", [0, 1] * 10, ["ant", "bee"])
    whole = open_data(str(tmp_path))
    divided = [open_data(str(tmp_path), test_calibration_fraction=0.2, seed=seed) for seed in (0, 1)]
    for data in divided:
        assert sorted(data.splits["test"].keys() + data.splits["calibration"].keys()) == sorted(
            whole.splits["test"].keys()
        )
        assert torch.bincount(data.splits["calibration"].labels_N).tolist() == [2, 2]
    # Runs of any seed leave the same images out, or they would be judged on different ones.
    assert divided[0].splits["calibration"].keys() == divided[1].splits["calibration"].keys()
    assert "stands in for" in str(
        refusal(open_data, str(tmp_path), test_calibration_fraction=0.2, calibration=tmp_path)
    )
    (tmp_path / "test.parquet").unlink()
    make_folder(tmp_path / "folder", {"train/ant": 2, "train/bee": 2})
    assert "takes images of a test split" in str(
        refusal(open_data, str(tmp_path / "folder"), test_calibration_fraction=0.2)
    )
