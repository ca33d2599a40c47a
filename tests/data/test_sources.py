"""Opening data sets: layouts, columns, classes and splits, and the errors for each invalid form."""

from __future__ import annotations

import io
import itertools
import os
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import torch
from PIL import Image
from pydantic import ValidationError

from richkd.config.schema import DataConfig
from richkd.core.errors import ClassError, ConfigError, DataError
from richkd.data.duplicates import duplicates
from richkd.data.sources import LEFT_OUT, open_data
from richkd.data.split import Data, Split
from richkd.data.tables import is_table

Layout = dict[str, int]


def make_folder(root: Path, layout: Layout) -> Path:
    """Class folders with this number of images each; all images differ."""
    for folder, count in layout.items():
        (root / folder).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            color = tuple(os.urandom(3))
            Image.new("RGB", (6, 5), color).save(root / folder / f"{number:03}.png")
    return root


def png(value: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (3, 3), (value % 256, value // 256 % 256, 7)).save(buffer, "PNG")
    return buffer.getvalue()


def write_parquet(
    file: Path, labels: list, names: list[str] | None = None, extra: dict | None = None, column: str = "label"
) -> Path:
    """Images whose red value is the row number; a ClassLabel if names are given; ``extra`` columns."""
    file.parent.mkdir(parents=True, exist_ok=True)
    cells = [{"bytes": png(row), "path": None} for row in range(len(labels))]
    table = datasets.Dataset.from_dict({"image": cells, column: labels, **(extra or {})})
    table = table.cast_column("image", datasets.Image())
    if names:
        table = table.cast_column(column, datasets.ClassLabel(names=names))
    table.to_parquet(file)
    return file


def open_path(path: Path | str, seed: int = 0, **changes: Any) -> Data:
    """The data at ``path``, with settings of the section ``data``."""
    return open_data(DataConfig(path=str(path), **changes), seed)


def all_keys(data: Data) -> list[str]:
    return sorted(itertools.chain.from_iterable(split.keys() for split in data.splits.values()))


def reds(split: Split) -> list[int]:
    return [split.read(index).getpixel((0, 0))[0] for index in range(len(split))]


# Layouts of folders


@pytest.mark.parametrize(
    ("train", "val", "test"),
    [
        ("train", "val", "test"),
        ("training", "valid", "testing"),
        ("Train", "validation", "Test"),
        ("train", "dev", "test"),
    ],
)
def test_folder_with_three_splits(tmp_path: Path, train: str, val: str, test: str) -> None:
    make_folder(
        tmp_path, {f"{s}/{c}": n for s, n in ((train, 3), (val, 1), (test, 2)) for c in ("cat", "ant")}
    )
    data = open_path(tmp_path)
    assert list(data.splits) == ["train", "val", "test"]
    assert [len(split) for split in data.splits.values()] == [6, 2, 4]
    assert data.class_names == data.splits["test"].class_names == ("ant", "cat")
    assert data.path == str(tmp_path)
    split = data.splits["train"]
    assert split.keys() == [f"{train}/{c}/00{i}.png" for c in ("ant", "cat") for i in range(3)]
    assert [split.key(i) for i in range(6)] == split.keys()
    assert split.labels_N.tolist() == [0, 0, 0, 1, 1, 1]
    assert split.labels_N.dtype == torch.int64
    for index, key in enumerate(split.keys()):
        assert split.read(index).tobytes() == Image.open(tmp_path / key).tobytes()


def test_folder_without_test_split_has_none_and_keeps_val_from_train(tmp_path: Path) -> None:
    make_folder(tmp_path, {f"train/{c}": 10 for c in "ab"})
    splits = open_path(tmp_path, val_fraction=0.2).splits
    assert {name: len(split) for name, split in splits.items()} == {"train": 16, "val": 4}


def test_folder_with_only_a_test_split(tmp_path: Path) -> None:
    make_folder(tmp_path, {f"test/{c}": 2 for c in "ab"})
    assert list(open_path(tmp_path).splits) == ["test"]


def test_whole_folder_is_divided_into_disjoint_stratified_splits(tmp_path: Path) -> None:
    make_folder(tmp_path, {"a": 20, "b": 10, "train": 10})
    data = open_path(tmp_path, test_fraction=0.2, val_fraction=0.25)
    assert data.class_names == ("a", "b", "train")
    counts = {name: split.labels_N.bincount().tolist() for name, split in data.splits.items()}
    assert counts == {"train": [12, 6, 6], "val": [4, 2, 2], "test": [4, 2, 2]}
    assert all_keys(data) == sorted(str(f.relative_to(tmp_path)) for f in tmp_path.rglob("*.png"))
    for split in data.splits.values():
        keys = split.keys()
        assert [key.split("/")[0] for key in keys] == [data.class_names[y] for y in split.labels_N]
    again = open_path(tmp_path, test_fraction=0.2, val_fraction=0.25)
    other = open_path(tmp_path, test_fraction=0.2, val_fraction=0.25, seed=1)
    assert [s.keys() for s in again.splits.values()] == [s.keys() for s in data.splits.values()]
    assert other.splits["test"].keys() != data.splits["test"].keys()


def test_fractions_of_zero_hold_out_no_images(tmp_path: Path) -> None:
    make_folder(tmp_path, {"a": 3, "b": 3})
    assert list(open_path(tmp_path, test_fraction=0, val_fraction=0).splits) == ["train"]


def test_digits_as_class_names_have_one_order_in_all_splits(tmp_path: Path) -> None:
    make_folder(tmp_path, {f"{split}/{c}": 1 for split in ("train", "test") for c in range(12)})
    data = open_path(tmp_path, val_fraction=0)
    for split in data.splits.values():
        keys = split.keys()
        assert [key.split("/")[1] for key in keys] == [data.class_names[y] for y in split.labels_N]
    assert data.class_names == tuple(sorted(map(str, range(12))))


def test_hidden_files_and_metadata_are_ignored(tmp_path: Path) -> None:
    make_folder(
        tmp_path, {"train/a": 1, "train/b": 1, ".cache/x": 1, "__MACOSX/a": 1, "train/.thumbnails": 1}
    )
    for name in (".DS_Store", "Thumbs.db", "notes.txt", "labels.json", "meta.CSV"):
        (tmp_path / "train/a" / name).write_text("x")
    (tmp_path / "README.md").write_text("x")
    assert open_path(tmp_path).splits["train"].keys() == ["train/a/000.png", "train/b/000.png"]


def test_a_changed_folder_is_noticed(tmp_path: Path) -> None:
    make_folder(tmp_path, {"train/a": 1, "train/b": 1})
    open_path(tmp_path)
    make_folder(tmp_path, {"train/c": 2})
    assert open_path(tmp_path, val_fraction=0).splits["train"].labels_N.tolist() == [0, 1, 2, 2]


# Errors of folders


@pytest.mark.parametrize(
    ("layout", "message"),
    [
        ({}, "must contain one folder per class(.|\n)*no folders"),
        ({"a": 0, "b": 0}, "2 empty: a, b"),
        ({"train/a": 2, "train/b": 0, "train/c": 0}, "2 empty: b, c"),
        ({"a": 2}, "at least two classes"),
        ({"a": 2, "b/c": 2}, "directly in their class folders(.|\n)*b/c"),
        (
            {"train": 3, "test": 3},
            "train must contain one folder per class(.|\n)*images outside of any class folder",
        ),
        ({"a": 2, "b": 2, ".": 1}, "images outside of any class folder: 000.png"),
        (
            {"train/a": 1, "train/b": 1, "val/a": 1, "valid/b": 1},
            "one folder for each split(.|\n)*val and valid",
        ),
        ({"train/a": 1, "train/b": 1, "extra/a": 1}, "no other folder of images besides(.|\n)*Got: extra"),
    ],
)
def test_invalid_layouts_are_rejected(tmp_path: Path, layout: Layout, message: str) -> None:
    make_folder(tmp_path, layout)
    with pytest.raises(DataError, match=message):
        open_path(tmp_path)


@pytest.mark.parametrize("split", ["test", "val"])
@pytest.mark.parametrize(
    ("train", "other", "named"),
    [("ab", "abz", "unknown: z"), ("ab", "ac", "missing: b")],
)
def test_a_class_that_train_lacks_is_refused(
    tmp_path: Path, split: str, train: str, other: str, named: str
) -> None:
    make_folder(tmp_path, {**{f"train/{c}": 1 for c in train}, **{f"{split}/{c}": 1 for c in other}})
    with pytest.raises(ClassError, match=rf"{split} in (.|\n)*{named}"):
        open_path(tmp_path)


def test_files_of_other_types_are_named_and_counted(tmp_path: Path) -> None:
    make_folder(tmp_path, {"a": 1, "b": 1})
    for name in ("a/1.psd", "a/2.dng", "a/3", "b/4.zip", "b/5.mp4", "b/6.doc"):
        (tmp_path / name).write_text("x")
    with pytest.raises(
        DataError, match=r"6 files of other types: a/1\.psd, a/2\.dng, a/3, b/4\.zip, b/5\.mp4 and 1"
    ):
        open_path(tmp_path)


def test_unreadable_image_of_a_folder_is_named_by_its_path(tmp_path: Path) -> None:
    make_folder(tmp_path, {"train/a": 1, "train/b": 1})
    (tmp_path / "train/b/000.png").write_bytes(b"broken")
    with pytest.raises(DataError, match=r"Image train/b/000\.png must be readable"):
        open_path(tmp_path).splits["train"].read(1)


def test_a_table_without_images_beside_class_folders_is_not_used(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    make_folder(tmp_path, {"ant": 2, "bee": 2})
    pyarrow.parquet.write_table(
        pyarrow.table({"file": ["ant/000.png"], "embedding": [[0.5]]}), tmp_path / "embeddings.parquet"
    )
    assert len(all_keys(open_path(tmp_path))) == 4
    assert "not used, because they have no images: embeddings.parquet" in caplog.text
    # A table of images counts.
    write_parquet(tmp_path / "embeddings.parquet", ["x", "y"])
    assert open_path(tmp_path).class_names == ("x", "y")


def test_an_empty_path_is_not_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_folder(tmp_path, {"train/ant": 2, "train/bee": 2})
    monkeypatch.chdir(tmp_path)
    assert open_path(".").splits
    for path in ("", " "):
        with pytest.raises(DataError, match="must not be empty"):
            open_path(path)


@pytest.mark.parametrize(("setting", "name"), [("unlabeled", "test"), ("calibration", "Validation")])
def test_a_split_that_a_setting_names_is_no_split_and_this_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, setting: str, name: str
) -> None:
    layout = {f"{split}/{kind}": 3 for split in ("train", name, "other") for kind in ("ant", "bee")}
    make_folder(tmp_path, layout)
    folder = (tmp_path / "other").rename(tmp_path.parent / f"other of {setting}")
    open_path(tmp_path, val_fraction=0, **{setting: str(folder)})
    assert "is the folder of" not in caplog.text
    data = open_path(tmp_path, val_fraction=0, **{setting: str(tmp_path / name)})
    assert "test" not in data.splits
    assert "val" not in data.splits
    split = "test" if name == "test" else "val"
    assert f"{name} is the folder of data.{setting}, so its images are no {split} split" in caplog.text


def test_other_images_that_are_a_link_to_itself_are_named(tmp_path: Path) -> None:
    make_folder(tmp_path / "photos", {"train/ant": 2, "train/bee": 2})
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for setting in ("calibration", "unlabeled"):
        with pytest.raises(DataError, match="loop"):
            open_path(tmp_path / "photos", **{setting: str(tmp_path / "loop")})


@pytest.mark.parametrize(
    "name", ["part.parquet", "labels.csv", "train/part.parquet", "train/ant/metadata.csv"]
)
def test_a_link_to_itself_in_a_folder_is_named_or_left_out(tmp_path: Path, name: str) -> None:
    make_folder(tmp_path, {"train/ant": 2, "train/bee": 2})
    (tmp_path / name).symlink_to(tmp_path / name)
    if name.endswith(".parquet"):
        with pytest.raises(DataError, match=r"part\.parquet must be a parquet file"):
            open_path(tmp_path)
    else:
        assert sum(map(len, open_path(tmp_path).splits.values())) == 4


def test_missing_folder_suggests_its_neighbors(tmp_path: Path) -> None:
    make_folder(tmp_path, {"flowers": 0, "zebras": 0})
    (tmp_path / "flowers.csv").touch()
    (tmp_path / "flowers.zip").touch()
    with pytest.raises(DataError, match=r"Similar names: \S*flowers.csv, \S*flowers\.$"):
        open_path(tmp_path / "flower.csv")
    # A name with the ending of a file is never looked for on the hub.
    with pytest.raises(DataError, match=r"The data file flower\.csv must exist\nGot: no such file"):
        open_path("flower.csv")
    with pytest.raises(DataError, match=r"must exist(.|\n)*Similar names: .*flowers") as raised:
        open_path(tmp_path / "flower")
    assert "zebras" not in str(raised.value)


def test_hub_name_without_network_mentions_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    with pytest.raises(DataError, match=r"'jane/flowers' is no local folder(.|\n)*the network"):
        open_path("jane/flowers")


def test_a_name_without_an_owner_is_a_missing_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_folder(tmp_path, {"flowers": 0})
    monkeypatch.chdir(tmp_path)

    def wait(*names: str) -> None:
        raise AssertionError("the hub was asked")

    monkeypatch.setattr("richkd.data.formats.hub.open_downloaded", wait)
    monkeypatch.setattr(datasets, "load_dataset", wait)
    with pytest.raises(DataError) as caught:
        open_path("flowerz")
    error = caught.value
    assert (error.rule, error.got) == ("The data folder flowerz must exist", "no such folder")
    assert error.fix == "check the path. Similar names: flowers. A data set of the hub is OWNER/NAME."
    with pytest.raises(DataError, match=r"Fix: check the path\. A data set of the hub is OWNER/NAME\."):
        open_path("xyz")


def test_a_file_that_is_not_parquet_is_rejected(tmp_path: Path) -> None:
    (tmp_path / "x.zip").write_text("x")
    (tmp_path / "x.parquet").write_text("x")
    with pytest.raises(DataError, match=r"x\.zip must be a folder or a file of type \.parquet"):
        open_path(tmp_path / "x.zip")
    with pytest.raises(DataError, match=r"x\.parquet must be a parquet file"):
        open_path(tmp_path / "x.parquet")


@pytest.mark.parametrize("option", ["val_fraction", "test_fraction", "test_calibration_fraction"])
@pytest.mark.parametrize("value", [-0.1, 1.0, float("nan")])
def test_fractions_outside_their_range_are_rejected_by_the_settings(option: str, value: float) -> None:
    with pytest.raises(ValidationError, match=rf"{option}\n"):
        DataConfig(path="any", **{option: value})


# The hub


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["train", "validation", "test"], {"train": 4, "val": 4, "test": 4}),
        (["train", "test"], {"train": 2, "val": 2, "test": 4}),
        (["full"], {"train": 2, "test": 2}),
        (["train", "validation", "extra"], {"train": 4, "val": 4}),
    ],
)
def test_hub_splits_are_identified_by_name(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, names: list[str], expected: dict[str, int]
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = datasets.Dataset.from_parquet(str(write_parquet(tmp_path / "x.parquet", [0, 1, 0, 1], ["a", "b"])))
    monkeypatch.setattr(
        datasets, "load_dataset", lambda path: datasets.DatasetDict(dict.fromkeys(names, rows))
    )
    splits = open_path("someone/something").splits
    assert {name: len(split) for name, split in splits.items()} == expected


# Parquet


def test_parquet_named_by_split_in_shards(tmp_path: Path) -> None:
    names = ["zoo", "ark"]
    write_parquet(tmp_path / "data/train-00000-of-00002.parquet", [0, 1], names)
    write_parquet(tmp_path / "data/train-00001-of-00002.parquet", [1, 1, 0], names)
    write_parquet(tmp_path / "data/validation-00000-of-00001.parquet", [1, 0], names)
    write_parquet(tmp_path / "data/test.parquet", [1], names)
    data = open_path(tmp_path)
    assert {name: split.labels_N.tolist() for name, split in data.splits.items()} == {
        "train": [0, 1, 1, 1, 0],
        "val": [1, 0],
        "test": [1],
    }
    # The order of a ClassLabel is kept, alphabetical or not.
    assert data.class_names == ("zoo", "ark")
    assert data.splits["train"].keys() == [f"train[{i}]" for i in range(5)]
    assert reds(data.splits["train"]) == [0, 1, 0, 1, 2]


@pytest.mark.parametrize("target", ["", "x.parquet"])
def test_parquet_without_split_names_is_divided_and_keys_stay_rows_of_the_source(
    tmp_path: Path, target: str
) -> None:
    write_parquet(tmp_path / "x.parquet", [0, 1] * 10, ["a", "b"])
    data = open_path(tmp_path / target)
    splits = data.splits
    assert {name: len(split) for name, split in splits.items()} == {"train": 14, "val": 2, "test": 4}
    for split in splits.values():
        assert split.keys() == [f"data[{red}]" for red in reds(split)]
        assert split.labels_N.tolist() == [red % 2 for red in reds(split)]
    assert all_keys(data) == sorted(f"data[{i}]" for i in range(20))


def test_val_from_train_keeps_the_row_numbers_of_the_file(tmp_path: Path) -> None:
    write_parquet(tmp_path / "train.parquet", [0, 1] * 10, ["a", "b"])
    for split in open_path(tmp_path, val_fraction=0.3).splits.values():
        assert split.keys() == [f"train[{red}]" for red in reds(split)]


def test_parquet_in_split_folders(tmp_path: Path) -> None:
    write_parquet(tmp_path / "train/0000.parquet", [0, 1, 1], ["a", "b"])
    write_parquet(tmp_path / "test/0000.parquet", [0, 1], ["a", "b"])
    assert {n: len(s) for n, s in open_path(tmp_path, val_fraction=0).splits.items()} == {
        "train": 3,
        "test": 2,
    }


def test_hidden_copies_of_parquet_files_are_ignored(tmp_path: Path) -> None:
    write_parquet(tmp_path / "train-0.parquet", [0, 1] * 2, ["ant", "bee"])
    (tmp_path / "._train-0.parquet").write_bytes(b"\0\5\26\7")
    assert open_path(tmp_path, val_fraction=0).class_names == ("ant", "bee")
    assert not is_table(str(make_folder(tmp_path / "more", {".": 1})))
    (tmp_path / "more" / "._x.parquet").write_bytes(b"\0\5\26\7")
    assert not is_table(str(tmp_path / "more"))


def test_parquet_files_of_which_only_some_name_their_split_are_rejected(tmp_path: Path) -> None:
    write_parquet(tmp_path / "train.parquet", [0, 1], ["a", "b"])
    write_parquet(tmp_path / "more.parquet", [0, 1], ["a", "b"])
    with pytest.raises(DataError, match=r"none of the parquet files(.|\n)*Got: more\.parquet"):
        open_path(tmp_path)


@pytest.mark.parametrize("files", [("train-0.parquet", "train-1.parquet"), ("train.parquet", "test.parquet")])
def test_class_labels_in_another_order_are_rejected_between_shards_and_splits(
    tmp_path: Path, files: tuple[str, str]
) -> None:
    write_parquet(tmp_path / files[0], [0, 1], ["a", "b"])
    write_parquet(tmp_path / files[1], [0, 1], ["b", "a"])
    with pytest.raises(ClassError, match=r"must be in the order of"):
        open_path(tmp_path)


def test_shards_with_other_columns_are_rejected(tmp_path: Path) -> None:
    write_parquet(tmp_path / "train-0.parquet", [0, 1], ["a", "b"])
    write_parquet(tmp_path / "train-1.parquet", [0, 1], ["a", "b"], column="other")
    with pytest.raises(DataError, match=r"must open as one table"):
        open_path(tmp_path)


def test_a_replaced_parquet_is_noticed_even_with_the_old_size_and_time(tmp_path: Path) -> None:
    file = write_parquet(tmp_path / "train.parquet", [0, 1, 1], ["a", "b"])
    before = file.stat()
    assert open_path(tmp_path, val_fraction=0).splits["train"].labels_N.tolist() == [0, 1, 1]
    write_parquet(file, [1, 0, 0], ["a", "b"])
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert file.stat().st_size == before.st_size
    assert open_path(tmp_path, val_fraction=0).splits["train"].labels_N.tolist() == [1, 0, 0]


def test_raw_bytes_columns_hold_images_too(tmp_path: Path) -> None:
    cells = [png(row) for row in range(4)]
    for name, column in (("binary", cells), ("struct", [{"bytes": cell} for cell in cells])):
        file = tmp_path / f"{name}.parquet"
        pyarrow.parquet.write_table(pyarrow.table({"picture": column, "label": ["a", "b", "a", "b"]}), file)
        split = open_path(file, test_fraction=0, val_fraction=0).splits["train"]
        assert split.image_column == "picture"
        assert reds(split) == [0, 1, 2, 3]


# Columns


def two_of_each(tmp_path: Path) -> str:
    table = datasets.Dataset.from_dict(
        {
            "left": [{"bytes": png(i), "path": None} for i in range(4)],
            "right": [{"bytes": png(i + 10), "path": None} for i in range(4)],
            "kind": [0, 1, 0, 1],
            "sort": [1, 1, 0, 0],
            "comment": ["x", "y", "z", "z"],
        }
    )
    for column in ("left", "right"):
        table = table.cast_column(column, datasets.Image())
    for column in ("kind", "sort"):
        table = table.cast_column(column, datasets.ClassLabel(names=["a", "b"]))
    table.to_parquet(tmp_path / "train.parquet")
    return str(tmp_path)


def test_ambiguous_columns_are_listed_with_the_option_that_selects_one(tmp_path: Path) -> None:
    path = two_of_each(tmp_path)
    with pytest.raises(DataError, match=r"2 candidates(.|\n)*left, right(.|\n)*--data.image_column"):
        open_path(path)
    with pytest.raises(DataError, match=r"2 candidates(.|\n)*kind, sort(.|\n)*--data.label_column"):
        open_path(path, image_column="right")
    split = open_path(path, image_column="right", label_column="sort", val_fraction=0).splits["train"]
    assert reds(split) == [10, 11, 12, 13]
    assert split.labels_N.tolist() == [1, 1, 0, 0]


def test_unsuitable_columns_are_rejected(tmp_path: Path) -> None:
    path = two_of_each(tmp_path)
    with pytest.raises(
        DataError, match=r"--data.image_column must name a column(.|\n)*'lefty'(.|\n)*Did you mean 'left'"
    ):
        open_path(path, image_column="lefty")
    with pytest.raises(DataError, match=r"'comment' of .* must contain image files"):
        open_path(path, image_column="comment")
    with pytest.raises(DataError, match=r"must contain class labels"):
        open_path(path, image_column="left", label_column="right")
    with pytest.raises(DataError, match=r"'comment' of .* must contain a different key for each image"):
        open_path(path, image_column="left", label_column="sort", key_column="comment")


def test_no_label_column_and_no_image_column(tmp_path: Path) -> None:
    write_parquet(tmp_path / "a.parquet", [0, 1], column="answer")
    with pytest.raises(
        DataError, match=r"0 candidates among the columns: image, answer(.|\n)*--data.label_column"
    ):
        open_path(tmp_path / "a.parquet")
    datasets.Dataset.from_dict({"label": ["a", "b"]}).to_parquet(tmp_path / "b.parquet")
    with pytest.raises(DataError, match=r"0 candidates among the columns: label(.|\n)*--data.image_column"):
        open_path(tmp_path / "b.parquet")


def test_fine_label_is_preferred_to_coarse_label(tmp_path: Path) -> None:
    file = write_parquet(tmp_path / "train.parquet", [0, 1, 2, 2], ["a", "b", "c"], column="fine_label")
    table = datasets.Dataset.from_parquet(str(file)).add_column("coarse_label", [0, 0, 1, 1])
    table.cast_column("coarse_label", datasets.ClassLabel(names=["x", "y"])).to_parquet(file)
    assert open_path(file, test_fraction=0, val_fraction=0).class_names == ("a", "b", "c")
    assert open_path(file, test_fraction=0, val_fraction=0, label_column="coarse_label").class_names == (
        "x",
        "y",
    )


@pytest.mark.parametrize("unique", [True, False])
def test_key_column_is_detected_if_it_is_unique(tmp_path: Path, unique: bool) -> None:
    names = ["p", "q", "r", "s"] if unique else ["p", "q", "r", "r"]
    write_parquet(tmp_path / "train.parquet", [0, 1, 0, 1], ["a", "b"], {"file_name": names})
    splits = open_path(tmp_path, val_fraction=0.5).splits
    keys = splits["train"].keys() + splits["val"].keys()
    assert sorted(keys) == (names if unique else [f"train[{i}]" for i in range(4)])
    assert splits["val"].key(1) == splits["val"].keys()[1]


def test_key_column_of_integers_is_used_if_requested(tmp_path: Path) -> None:
    write_parquet(tmp_path / "train.parquet", [0, 1], ["a", "b"], {"id": [70, 80]})
    assert open_path(tmp_path, val_fraction=0).splits["train"].keys() == ["train[0]", "train[1]"]
    assert open_path(tmp_path, val_fraction=0, key_column="id").splits["train"].keys() == ["70", "80"]


# Classes


@pytest.mark.parametrize(
    ("labels", "names", "positions"),
    [
        (["cow", "bee", "cow"], ("bee", "cow"), [1, 0, 1]),
        ([10, 9, 10], ("9", "10"), [1, 0, 1]),
    ],
)
def test_labels_without_names_are_numbered_in_ascending_order(
    tmp_path: Path, labels: list, names: tuple[str, ...], positions: list[int]
) -> None:
    write_parquet(tmp_path / "train.parquet", labels)
    data = open_path(tmp_path, val_fraction=0)
    assert data.class_names == names
    assert data.splits["train"].labels_N.tolist() == positions


@pytest.mark.parametrize("split", ["val", "test"])
def test_a_held_out_split_may_lack_classes_which_are_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, split: str
) -> None:
    write_parquet(tmp_path / "parquet/train.parquet", ["a", "b", "c"])
    write_parquet(tmp_path / f"parquet/{split}.parquet", ["c", "a", "c"])
    make_folder(tmp_path / "images", {"train/a": 1, "train/b": 1, "train/c": 1})
    make_folder(tmp_path / "images", {f"{split}/a": 1, f"{split}/b": 0, f"{split}/c": 2})
    for folder, labels in (("parquet", [2, 0, 2]), ("images", [0, 2, 2])):
        caplog.clear()
        opened = open_path(tmp_path / folder, val_fraction=0).splits[split]
        assert opened.class_names == ("a", "b", "c")
        assert opened.labels_N.tolist() == labels
        (record,) = caplog.records
        assert record.getMessage().endswith(f"{folder}: classes without images (1 of 3): b")


def test_a_held_out_split_may_have_a_single_class(tmp_path: Path) -> None:
    make_folder(tmp_path, {"train/a": 1, "train/b": 1, "test/b": 2})
    assert open_path(tmp_path, val_fraction=0).splits["test"].labels_N.tolist() == [1, 1]


@pytest.mark.parametrize("labels", [[-1, -1], None])
def test_a_held_out_split_without_labels_is_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, labels: list[int] | None
) -> None:
    write_parquet(tmp_path / "train.parquet", [0, 1], ["a", "b"])
    write_parquet(tmp_path / "test.parquet", labels or [7, 8], column="label" if labels else "number")
    assert list(open_path(tmp_path, val_fraction=0).splits) == ["train"]
    assert "test in" in caplog.text
    assert "no labels and are left out" in caplog.text
    # Data without labels for training are an error, and so are data with test images only.
    for kept, removed in (("train", "test"), ("test", "train")):
        write_parquet(tmp_path / f"{kept}.parquet", [-1, -1])
        (tmp_path / f"{removed}.parquet").unlink(missing_ok=True)
        with pytest.raises(DataError, match=r"Every image must have a class(.|\n)*2 of 2"):
            open_path(tmp_path)


def test_images_in_hidden_folders_are_mentioned(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    make_folder(tmp_path, {"a": 2, "b": 2, ".cache/x": 1, ".config": 0, "a/.thumbs": 1})
    assert len(all_keys(open_path(tmp_path))) == 4
    assert [record.getMessage().partition(": ")[2] for record in caplog.records] == [
        "images in hidden folders are ignored: .cache",
        "images in hidden folders are ignored: a/.thumbs",
    ]


@pytest.mark.parametrize("missing", [-1, None])
def test_images_without_a_class_are_rejected(tmp_path: Path, missing: int | None) -> None:
    write_parquet(tmp_path / "train.parquet", [0, 1, missing, missing], ["a", "b"])
    with pytest.raises(DataError, match=r"Every image must have a class(.|\n)*2 of 4"):
        open_path(tmp_path)


def test_a_class_without_training_images_is_named(tmp_path: Path) -> None:
    write_parquet(tmp_path / "train.parquet", [0, 2], ["a", "b", "c"])
    with pytest.raises(DataError, match=r"must have images\nGot: no images of b"):
        open_path(tmp_path)


def test_a_table_without_rows_is_rejected(tmp_path: Path) -> None:
    table = datasets.Dataset.from_parquet(str(write_parquet(tmp_path / "x.parquet", [0, 1], ["a", "b"])))
    table.select([]).to_parquet(tmp_path / "x.parquet")
    with pytest.raises(DataError, match=r"must contain images\nGot: no rows"):
        open_path(tmp_path)


def test_class_names_file_replaces_the_names_in_label_order(tmp_path: Path) -> None:
    make_folder(tmp_path / "data", {f"{s}/{c}": 2 for s in ("train", "test") for c in ("n01", "n02")})
    names = tmp_path / "names.txt"
    names.write_text("\ufeffgreat auk\r\nété\n\n", encoding="utf-8")
    data = open_path(tmp_path / "data", class_names=names)
    assert data.class_names == ("great auk", "été")
    assert all(split.class_names == data.class_names for split in data.splits.values())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("one\n", "a name for each of the 2 classes\nGot: 1 lines"),
        ("one\ntwo\nthree", "Got: 3 lines"),
        ("sea_lion\nsea  lion\n", "must be unique(.|\n)*Got: 'sea  lion' and 'sea_lion'"),
        ("\nx\n", "an empty name for class 0"),
    ],
)
def test_invalid_class_names_files_are_rejected(tmp_path: Path, text: str, message: str) -> None:
    make_folder(tmp_path / "data", {"a": 3, "b": 3})
    (tmp_path / "names.txt").write_text(text)
    with pytest.raises(ClassError, match=message):
        open_path(tmp_path / "data", class_names=tmp_path / "names.txt")


def test_class_names_of_labels_that_are_no_numbers(tmp_path: Path) -> None:
    make_folder(tmp_path / "data", {"0": 3, "²": 3})
    (tmp_path / "names.txt").write_text("one\ntwo\nthree")
    with pytest.raises(ClassError, match=r"Got: 3 lines\n"):
        open_path(tmp_path / "data", class_names=tmp_path / "names.txt")


@pytest.mark.parametrize("option", ["path", "calibration", "unlabeled"])
def test_the_home_folder_of_an_unknown_user_does_not_exist(tmp_path: Path, option: str) -> None:
    make_folder(tmp_path, {"a": 3, "b": 3})
    with pytest.raises(DataError, match=r"folder ~no-such-user/x must exist"):
        open_data(DataConfig(**{"path": str(tmp_path), option: "~no-such-user/x"}))


def test_class_names_file_that_is_missing(tmp_path: Path) -> None:
    make_folder(tmp_path / "data", {"a": 3, "b": 3})
    with pytest.raises(DataError, match=r"gone\.txt must be readable"):
        open_path(tmp_path / "data", class_names=tmp_path / "gone.txt")


def test_folder_names_that_differ_only_in_underscores_are_rejected(tmp_path: Path) -> None:
    make_folder(tmp_path, {"sea_lion": 2, "sea lion": 2})
    with pytest.raises(ClassError, match=r"must be unique"):
        open_path(tmp_path)


# Calibration


def test_calibration_classes_are_matched_by_name_even_inside_the_data_folder(tmp_path: Path) -> None:
    write_parquet(tmp_path / "train.parquet", [0, 1, 0, 1], ["zoo", "ark"])
    make_folder(tmp_path, {"held/ark": 1, "held/zoo": 2})
    split = open_path(tmp_path, calibration=tmp_path / "held").splits["calibration"]
    assert split.name == "calibration"
    assert split.class_names == ("zoo", "ark")
    assert split.labels_N.tolist() == [1, 0, 0]
    assert split.keys() == ["ark/000.png", "zoo/000.png", "zoo/001.png"]


def test_calibration_may_be_parquet_and_may_have_the_replaced_names(tmp_path: Path) -> None:
    make_folder(tmp_path / "data", {"n1": 4, "n2": 4})
    (tmp_path / "names.txt").write_text("zoo\nark\n")
    file = write_parquet(tmp_path / "held.parquet", [0, 1, 1], ["ark", "zoo"])
    data = open_path(tmp_path / "data", calibration=file, class_names=tmp_path / "names.txt")
    assert data.splits["calibration"].labels_N.tolist() == [1, 0, 0]
    assert data.splits["calibration"].keys() == [f"calibration[{i}]" for i in range(3)]


def test_calibration_images_with_keys_of_other_images_get_a_prefix(tmp_path: Path) -> None:
    make_folder(tmp_path / "data", {"ant": 4, "bee": 4})
    make_folder(tmp_path / "held", {"ant": 1, "bee": 1})
    data = open_path(tmp_path / "data", calibration=tmp_path / "held")
    split = data.splits["calibration"]
    assert split.keys() == ["calibration/ant/000.png", "calibration/bee/000.png"]
    assert [split.key(1)] == split.select("part", np.array([1])).keys() == ["calibration/bee/000.png"]
    assert split.read(1).tobytes() == Image.open(tmp_path / "held/bee/000.png").tobytes()
    assert len(set(all_keys(data))) == 10


def test_calibration_has_the_columns_of_the_data_where_it_has_them(tmp_path: Path) -> None:
    wrong = {"kind": ["ant", "bee"] * 2, "uid": [7, 8, 9, 10]}
    for name in ("data", "same"):
        write_parquet(tmp_path / f"{name}.parquet", ["x", "y"] * 2, extra=wrong)
    given = {"label_column": "kind", "key_column": "uid"}
    data = open_path(tmp_path / "data.parquet", calibration=tmp_path / "same.parquet", **given)
    assert data.class_names == ("ant", "bee")
    assert data.splits["calibration"].labels_N.tolist() == [0, 1, 0, 1]
    assert data.splits["calibration"].keys() == [f"calibration/{uid}" for uid in range(7, 11)]
    # Neither a folder nor another table has these columns.
    make_folder(tmp_path / "held", {"ant": 1, "bee": 1})
    write_parquet(tmp_path / "other.parquet", ["ant", "bee"])
    for other in ("held", "other.parquet"):
        data = open_path(tmp_path / "data.parquet", calibration=tmp_path / other, **given)
        assert data.splits["calibration"].labels_N.tolist() == [0, 1]
    # The data must have them.
    with pytest.raises(DataError, match="label_column must name a column"):
        open_path(tmp_path / "other.parquet", **given)


def test_a_calibration_folder_inside_an_undivided_folder_is_not_a_class(tmp_path: Path) -> None:
    make_folder(tmp_path, {"a": 4, "b": 4, "calibration/a": 1, "calibration/b": 1})
    assert open_path(tmp_path, calibration=tmp_path / "calibration").class_names == ("a", "b")


def test_calibration_with_other_classes_or_with_splits_is_rejected(tmp_path: Path) -> None:
    make_folder(tmp_path / "data", {"a": 4, "b": 4})
    make_folder(tmp_path / "other", {"a": 1, "c": 1})
    make_folder(tmp_path / "split", {f"{s}/{c}": 1 for s in ("train", "test") for c in "ab"})
    with pytest.raises(ClassError, match=r"calibration in (.|\n)*missing: b; unknown: c"):
        open_path(tmp_path / "data", calibration=tmp_path / "other")
    write_parquet(tmp_path / "part.parquet", ["b", "c"])
    with pytest.raises(ClassError, match=r"calibration in (.|\n)*unknown: c"):
        open_path(tmp_path / "data", calibration=tmp_path / "part.parquet")
    with pytest.raises(DataError, match=r"must not be divided into splits(.|\n)*train, test"):
        open_path(tmp_path / "data", calibration=tmp_path / "split")


def test_a_share_of_test_becomes_the_calibration_split(tmp_path: Path) -> None:
    write_parquet(tmp_path / "train.parquet", [0, 1] * 5, ["ant", "bee"])
    write_parquet(tmp_path / "test.parquet", [0, 1] * 10, ["ant", "bee"])
    whole = open_path(tmp_path)
    divided = [open_path(tmp_path, seed, test_calibration_fraction=0.2) for seed in (0, 1)]
    for data in divided:
        assert sorted(data.splits["test"].keys() + data.splits["calibration"].keys()) == sorted(
            whole.splits["test"].keys()
        )
        assert torch.bincount(data.splits["calibration"].labels_N).tolist() == [2, 2]
    # Runs with different seeds must be evaluated on the same test images.
    assert divided[0].splits["calibration"].keys() == divided[1].splits["calibration"].keys()
    with pytest.raises(ConfigError, match=r"Only one of data.calibration and data.test_calibration_fraction"):
        open_path(tmp_path, test_calibration_fraction=0.2, calibration=tmp_path)
    make_folder(tmp_path / "folder", {"train/ant": 2, "train/bee": 2})
    with pytest.raises(DataError, match=r"needs a test split(.|\n)*only train, val"):
        open_path(tmp_path / "folder", test_calibration_fraction=0.2)


# Folds


def test_each_fold_of_train_can_be_left_out(tmp_path: Path) -> None:
    make_folder(tmp_path, {"train/a": 6, "train/b": 3, "test/a": 1, "test/b": 1})
    whole = open_path(tmp_path, val_fraction=0).splits["train"].keys()
    left_out: list[str] = []
    for fold in range(3):
        splits = open_path(tmp_path, val_fraction=0, exclude_fold=(fold, 3)).splits
        assert list(splits) == ["train", "test", LEFT_OUT]
        assert splits[LEFT_OUT].labels_N.tolist() == [0, 0, 1]
        assert sorted(splits["train"].keys() + splits[LEFT_OUT].keys()) == sorted(whole)
        left_out += splits[LEFT_OUT].keys()
    assert sorted(left_out) == sorted(whole)


@pytest.mark.parametrize("fold", [(3, 3), (-1, 3), (0, 0)])
def test_a_fold_that_does_not_exist_is_rejected(tmp_path: Path, fold: tuple[int, int]) -> None:
    make_folder(tmp_path, {"train/a": 3, "train/b": 3})
    with pytest.raises(ConfigError, match=rf"exclude_fold must be J K(.|\n)*Got: {fold[0]} {fold[1]}\n"):
        open_path(tmp_path, exclude_fold=fold)


def test_more_folds_than_images_are_refused(tmp_path: Path) -> None:
    make_folder(tmp_path, {"ant": 2, "bee": 2})
    with pytest.raises(ConfigError, match="must not have more folds"):
        open_path(tmp_path, val_fraction=0, test_fraction=0, exclude_fold=(0, 99_999))


def test_a_fold_of_data_without_a_training_split_is_rejected(tmp_path: Path) -> None:
    make_folder(tmp_path, {"test/a": 3, "test/b": 3})
    with pytest.raises(DataError, match=r"exclude_fold needs a training split(.|\n)*Got: only test"):
        open_path(tmp_path, exclude_fold=(0, 3))


# Real data


@pytest.mark.slow
def test_cifar100(data_dir: Path) -> None:
    data = open_path(data_dir / "cifar100")
    assert {name: len(split) for name, split in data.splits.items()} == {
        "train": 45000,
        "val": 5000,
        "test": 10000,
    }
    assert data.class_names[:2] == ("apple", "aquarium_fish")
    assert len(data.class_names) == 100
    assert data.splits["val"].labels_N.bincount().tolist() == [50] * 100
    assert data.splits["train"].labels_N.bincount().tolist() == [450] * 100
    assert data.splits["train"].image_column == "img"
    assert data.splits["test"].key(17) == "test[17]"
    assert data.splits["test"].read(17).size == (32, 32)
    keys = set(data.splits["train"].keys()) | set(data.splits["val"].keys())
    assert keys == {f"train[{row}]" for row in range(50000)}


def test_caltech101_uses_its_own_validation_split_and_file_names(data_dir: Path) -> None:
    data = open_path(data_dir / "caltech101")
    assert {name: len(split) for name, split in data.splits.items()} == {
        "train": 1600,
        "val": 1649,
        "test": 2465,
    }
    assert data.splits["train"].labels_N.bincount().tolist() == [16] * 100
    assert data.splits["val"].key_column == "file"
    assert data.splits["val"].key(0) == "Faces/image_0132.jpg"
    assert min(data.splits["test"].read(0).size) == 112


@pytest.mark.slow
def test_cifar100_has_ten_test_images_in_train(data_dir: Path) -> None:
    splits = open_path(data_dir / "cifar100", val_fraction=0).splits
    groups = duplicates(splits["train"], splits["test"])
    assert sum(len(one.second) for one in groups) == 10


@pytest.mark.parametrize("missing", [-1, -100])
def test_a_negative_integer_is_a_missing_label(tmp_path: Path, missing: int) -> None:
    write_parquet(tmp_path / "train.parquet", [0, 1, missing, 1])
    with pytest.raises(DataError, match=r"Every image must have a class(.|\n)*1 of 4"):
        open_path(tmp_path)
