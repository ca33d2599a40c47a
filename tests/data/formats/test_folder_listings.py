"""Data folders with listings: metadata.csv, train.csv, and listings that are not used."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.data.formats.test_listings import make_images, open_whole, rows_of, write
from tests.fixtures import refusal

LINES = ("file_name,text,label", "0.png,x,bee", "1.png,y,ant")


@pytest.mark.parametrize("name", ["metadata.csv", "metadata.jsonl"])
def test_metadata_replaces_class_folders(tmp_path: Path, name: str) -> None:
    make_images(tmp_path, "ant/0.png", "bee/1.png")
    if name == "metadata.csv":
        write(tmp_path / name, "file_name,label", "ant/0.png,wasp", "bee/1.png,fly")
    else:
        lines = ('{"file_name": "ant/0.png", "label": "wasp"}', '{"file_name": "bee/1.png", "label": "fly"}')
        write(tmp_path / name, *lines)
    assert rows_of(open_whole(tmp_path)) == [("ant/0.png", "wasp", 0), ("bee/1.png", "fly", 1)]


def test_metadata_in_split_folders(tmp_path: Path) -> None:
    for split in ("train", "test"):
        make_images(tmp_path / split, "0.png", "1.png")
        write(tmp_path / split / "metadata.csv", *LINES)
    data = open_whole(tmp_path)
    assert rows_of(data) == [("0.png", "bee", 0), ("1.png", "ant", 1)]
    assert rows_of(data, "test") == rows_of(data)


def test_metadata_without_labels_is_ignored(tmp_path: Path) -> None:
    make_images(tmp_path, "ant/0.png", "bee/1.png")
    write(tmp_path / "metadata.csv", "file_name,text", "ant/0.png,x", "bee/1.png,y")
    assert rows_of(open_whole(tmp_path)) == [("ant/0.png", "ant", 0), ("bee/1.png", "bee", 1)]


@pytest.mark.parametrize("names", [("train.csv", "val.csv"), ("training_labels.csv", "valid.jsonl")])
def test_listings_named_after_splits(tmp_path: Path, names: tuple[str, str]) -> None:
    make_images(tmp_path / "images", "0.png", "1.png", "2.png")
    write(tmp_path / names[0], "image,label", "images/0.png,ant", "images/1.png,bee")
    if names[1].endswith("csv"):
        write(tmp_path / names[1], "image,label", "2,bee")
    else:
        write(tmp_path / names[1], '{"image": "2.png", "label": "bee"}')
    data = open_whole(tmp_path)
    assert rows_of(data) == [("images/0.png", "ant", 0), ("images/1.png", "bee", 1)]
    assert rows_of(data, "val") == [("images/2.png", "bee", 2)]


def test_the_test_listing_of_a_competition_has_no_labels(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make_images(tmp_path, "train/a.jpg", "train/b.jpg", "test/c.jpg", "test/a.jpg")
    write(tmp_path / "train.csv", "id,label", "a,ant", "b,bee")
    write(tmp_path / "test.csv", "id", "c", "a")
    write(tmp_path / "sample_submission.csv", "id,label", "c,ant", "a,ant")
    data = open_whole(tmp_path)
    assert {name: split.keys() for name, split in data.splits.items()} == {
        "train": ["train/a.jpg", "train/b.jpg"]
    }
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == 2
    assert "sample_submission.csv (open one with --data" in messages[0]
    assert "test in" in messages[1]


def test_a_split_may_have_a_listing_and_another_class_folders(tmp_path: Path) -> None:
    make_images(tmp_path, "train/ant/0.png", "train/bee/1.png", "val/2.png")
    write(tmp_path / "val.csv", "image,label", "val/2.png,bee")
    data = open_whole(tmp_path)
    assert data.class_names == ("ant", "bee")
    assert rows_of(data, "val") == [("val/2.png", "bee", 2)]


def test_unrelated_files_are_ignored(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    make_images(tmp_path, "train/ant/0.png", "train/bee/1.png")
    write(tmp_path / "train.csv", "pixel0,pixel1", "0,1")
    write(tmp_path / "prices.csv", "item,price", "x,1")
    (tmp_path / "empty.csv").touch()
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00")
    assert len(open_whole(tmp_path).splits["train"]) == 2
    assert caplog.records == []


def test_a_listing_that_is_not_used_is_mentioned(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    make_images(tmp_path, "train/ant/0.png", "train/bee/1.png")
    write(tmp_path / "labels.csv", "image,label", "train/ant/0.png,x")
    write(tmp_path / "train" / "names.tsv", "image\tlabel")
    open_whole(tmp_path)
    (record,) = caplog.records
    assert "look like lists of labels: labels.csv, train/names.tsv" in record.getMessage()
    # A listing that the user gives as calibration data is used.
    caplog.clear()
    (tmp_path / "train" / "names.tsv").unlink()
    write(tmp_path / "labels.csv", "image,label", "train/ant/0.png,ant", "train/bee/1.png,bee")
    open_whole(tmp_path, calibration=tmp_path / "labels.csv")
    assert caplog.records == []


def test_the_error_of_a_folder_without_classes_mentions_its_listing(tmp_path: Path) -> None:
    make_images(tmp_path, "train/0.png", "train/1.png")
    write(tmp_path / "labels.csv", "id,breed", "0,husky", "1,poodle")
    error = refusal(open_whole, tmp_path)
    assert "must contain one folder per class" in error.rule
    assert str(error.fix).endswith(
        f"{tmp_path / 'labels.csv'} looks like a list of labels: open it with --data."
    )


def test_images_that_no_listing_has_are_mentioned(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    make_images(tmp_path, "0.png", "1.png", "more/2.png", "held/3.png")
    write(tmp_path / "metadata.csv", *LINES)
    shutil.copytree(tmp_path / "held", tmp_path / "other")
    open_whole(tmp_path, unlabeled=str(tmp_path / "held"))
    (record,) = caplog.records
    assert "2 images are in no list of labels, such as more/2.png" in record.getMessage()


def test_two_listings_of_one_split_are_refused(tmp_path: Path) -> None:
    make_images(tmp_path, "0.png", "1.png")
    write(tmp_path / "train.csv", *LINES)
    write(tmp_path / "train_new.csv", *LINES)
    assert "train.csv, train_new.csv for train" in str(refusal(open_whole, tmp_path))
    write(tmp_path / "metadata.csv", *LINES)
    write(tmp_path / "metadata.jsonl", '{"file_name": "0.png", "label": "x"}')
    assert "metadata.csv, metadata.jsonl for all images" in str(refusal(open_whole, tmp_path))


def test_problems_of_a_listing_in_a_folder_name_it(tmp_path: Path) -> None:
    make_images(tmp_path, "train/ant/0.png", "train/bee/1.png")
    write(tmp_path / "train.csv", "image,label", "0.png,ant", "9.png,bee")
    assert "train.csv must exist" in str(refusal(open_whole, tmp_path))
    write(tmp_path / "train.csv", "image,file,label", "0.png,0.png,ant")
    assert "2 candidates: image, file" in str(refusal(open_whole, tmp_path))
    write(tmp_path / "train.csv", "image,label", "é.png,ant", encoding="utf-16")
    assert "train.csv cannot be read" in str(refusal(open_whole, tmp_path))
