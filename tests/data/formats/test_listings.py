"""Listings of images: separators, names of columns, where files are found, splits, and every invalid form."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from richkd.config.schema import DataConfig
from richkd.core.errors import DataError
from richkd.data.formats.listing_files import IMAGE_NAMES, LABEL_NAMES, read_listing
from richkd.data.formats.listings import whole_numbers
from richkd.data.slices import COLUMN
from richkd.data.sources import open_data
from richkd.data.split import Data
from tests.fixtures import refusal

NAMES = ["ant", "bee", "ant", "bee"]


def make_images(folder: Path, *names: str) -> None:
    """Images whose red value is their position in ``names``; they are lossless whatever their names say."""
    for value, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4), (value, 0, 0)).save(folder / name, "PNG")


def write(file: Path, *lines: str, encoding: str = "utf-8") -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes("\n".join([*lines, ""]).encode(encoding))
    return file


def open_whole(path: Path, **changes: Any) -> Data:
    return open_data(DataConfig(path=str(path), **{"test_fraction": 0, "val_fraction": 0} | changes))


def rows_of(data: Data, split: str = "train") -> list[tuple[str, str, int]]:
    """Key, class and red value of each image."""
    one = data.splits[split]
    labels = [data.class_names[label] for label in one.labels_N]
    reds = [one.read(row).getpixel((0, 0))[0] for row in range(len(one))]
    return list(zip(one.keys(), labels, reds, strict=True))


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    make_images(tmp_path, "0.png", "1.png", "2.png", "3.png")
    return tmp_path


EXPECTED = [(f"{row}.png", name, row) for row, name in enumerate(NAMES)]


# Forms of files


@pytest.mark.parametrize("sign", [",", ";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("name", ["labels.csv", "labels.tsv", "LABELS.CSV"])
def test_separators_and_encodings(photos: Path, sign: str, encoding: str, name: str) -> None:
    lines = [f"{row}.png{sign}{label}{sign}x" for row, label in enumerate(NAMES)]
    file = write(photos / name, f"image{sign}label{sign}note", *lines, encoding=encoding)
    assert rows_of(open_whole(file)) == EXPECTED


@pytest.mark.parametrize(
    "image", [name for tier in IMAGE_NAMES for name in tier] + ["Image_Path", "File Name"]
)
def test_names_of_image_columns(photos: Path, image: str) -> None:
    file = write(photos / "labels.csv", f"{image},label", *(f"{r}.png,{y}" for r, y in enumerate(NAMES)))
    assert rows_of(open_whole(file)) == EXPECTED


@pytest.mark.parametrize("label", [name for tier in LABEL_NAMES for name in tier] + ["Class Name", "LABEL"])
def test_names_of_label_columns(photos: Path, label: str) -> None:
    file = write(photos / "labels.csv", f"image,{label}", *(f"{r}.png,{y}" for r, y in enumerate(NAMES)))
    assert rows_of(open_whole(file)) == EXPECTED


@pytest.mark.parametrize("name", ["labels.jsonl", "labels.ndjson", "labels.json", "list.json"])
def test_json_objects(photos: Path, name: str) -> None:
    objects = [{"file_name": f"{row}.png", "label": y, "size": row} for row, y in enumerate(NAMES)]
    text = json.dumps(objects) if name.startswith("list") else "\n".join(map(json.dumps, objects))
    (photos / name).write_text(text, encoding="utf-8")
    assert rows_of(open_whole(photos / name)) == EXPECTED


def test_text_of_two_columns_without_a_line_of_names(photos: Path) -> None:
    for name, sign in (("labels.txt", " "), ("labels.csv", ",")):
        file = write(photos / name, *(f"{row}.png{sign}{y}" for row, y in enumerate(NAMES)))
        assert rows_of(open_whole(file)) == EXPECTED


@pytest.mark.parametrize("empty", ["", ",", " , ", '"",""', "\t\t"])
def test_empty_rows_are_left_out(photos: Path, empty: str) -> None:
    lines = [line for row, label in enumerate(NAMES) for line in (f"{row}.png,{label}", empty)]
    file = write(photos / "labels.csv", empty, empty, "image,label", *lines)
    assert rows_of(open_whole(file)) == EXPECTED
    file.rename(photos / "metadata.csv")
    assert rows_of(open_whole(photos)) == EXPECTED


def test_quoted_cells_and_spaces(tmp_path: Path) -> None:
    make_images(tmp_path, "a, b.png", "c.png")
    file = write(tmp_path / "x.csv", "image, label", '"a, b.png", "great ""auk"""', "", "c.png ,été")
    assert rows_of(open_whole(file)) == [("a, b.png", 'great "auk"', 0), ("c.png", "été", 1)]


cells = st.text(st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"]), min_size=1).map(str.strip)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(st.lists(st.tuples(cells.filter(bool), cells.filter(bool)), min_size=1))
def test_a_listing_is_read_as_it_was_written(tmp_path: Path, pairs: list[tuple[str, str]]) -> None:
    with (tmp_path / "x.csv").open("w", newline="", encoding="utf-8") as opened:
        csv.writer(opened).writerows([("image", "label"), *pairs])
    listing = read_listing(tmp_path / "x.csv")
    assert list(zip(*listing.columns.values(), strict=True)) == pairs


# Where files are found


def test_absolute_paths_and_paths_of_windows(tmp_path: Path) -> None:
    make_images(tmp_path / "far", "a/0.png")
    make_images(tmp_path / "near", "b/1.png")
    file = write(tmp_path / "near/x.csv", "path,label", f"{tmp_path}/far/a/0.png,ant", r"b\1.png,bee")
    assert open_whole(file).splits["train"].keys() == [f"{tmp_path}/far/a/0.png", "b/1.png"]


def test_keys_do_not_depend_on_how_the_folder_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    zoo = tmp_path / "zoo"
    make_images(zoo, "a/0.png", "a/1.png", "a/2.png", "a/3.png")
    paths = ("a/0.png", "a/../a/1.png", str(zoo / "a/2.png"), "./a/3.png")
    write(zoo / "l.csv", "image,label", *(f"{path},{y}" for path, y in zip(paths, NAMES, strict=True)))
    (tmp_path / "link").symlink_to(zoo)
    monkeypatch.chdir(tmp_path)
    expected = [f"a/{row}.png" for row in range(4)]
    for folder in (zoo, "zoo", "zoo/../zoo", "zoo/a/..", "link", tmp_path / "link", "link/a/../../zoo"):
        assert open_whole(Path(folder, "l.csv")).splits["train"].keys() == expected


def test_a_folder_above_a_symbolic_link_is_that_of_its_target(tmp_path: Path) -> None:
    make_images(tmp_path, "0.png", "far/1.png", "far/deep/2.png", "zoo/1.png")
    (tmp_path / "zoo" / "link").symlink_to(tmp_path / "far" / "deep")
    names = ("link/2.png", "link/../1.png", "1.png", "../0.png")
    file = write(
        tmp_path / "zoo/l.csv", "image,label", *(f"{n},{y}" for n, y in zip(names, NAMES, strict=True))
    )
    keys = ["link/2.png", f"{tmp_path}/far/1.png", "1.png", f"{tmp_path}/0.png"]
    assert rows_of(open_whole(file)) == list(zip(keys, NAMES, (2, 1, 3, 0), strict=True))


def test_names_without_ending_are_found_in_a_folder_beside(tmp_path: Path) -> None:
    make_images(tmp_path, "train/00a.jpg", "train/00b.c.JPEG", "test/00d.jpg")
    file = write(tmp_path / "labels.csv", "id,breed", "00b.c,husky", "00a,poodle")
    data = open_whole(file)
    assert data.splits["train"].keys() == ["train/00b.c.JPEG", "train/00a.jpg"]
    assert data.class_names == ("husky", "poodle")


def test_a_name_of_several_files_is_that_of_its_split_or_refused(tmp_path: Path) -> None:
    make_images(tmp_path, "train/1.png", "train/2.png", "test/1.png", "test/2.png")
    lines = ["1,ant,train", "2,bee,train", "1,ant,test", "2,bee,test"]
    data = open_whole(write(tmp_path / "x.csv", "id,label,split", *lines))
    assert data.splits["train"].keys() == ["train/1.png", "train/2.png"]
    assert data.splits["test"].keys() == ["test/1.png", "test/2.png"]
    error = refusal(open_whole, write(tmp_path / "x.csv", "id,label", "1,ant", "2,bee"))
    assert "must be one file" in str(error)
    assert "1, which may be any of test/1.png, train/1.png" in str(error)


def test_missing_files_are_counted_and_named(photos: Path) -> None:
    lines = [f"{row}.png,ant" for row in range(11)]
    error = refusal(open_whole, write(photos / "x.csv", "image,label", *lines))
    assert isinstance(error, DataError)
    assert "7 of 11 missing: 4.png, 5.png, 6.png, 7.png, 8.png and 2 more" in str(error)


# Splits


@pytest.mark.parametrize("column", ["split", "Subset", "data set", "partition", "set"])
def test_a_split_column(photos: Path, column: str) -> None:
    lines = ["0.png,ant,Train", "1.png,bee,training", "2.png,ant,dev", "3.png,bee,TEST"]
    data = open_whole(write(photos / "x.csv", f"image,label,{column}", *lines), val_fraction=0.5)
    assert {n: s.keys() for n, s in data.splits.items()} == {
        "train": ["0.png", "1.png"],
        "val": ["2.png"],
        "test": ["3.png"],
    }


def test_split_columns_without_split_names(photos: Path, caplog: pytest.LogCaptureFixture) -> None:
    lines = ["0.png,ant,A", "1.png,bee,A"]
    assert len(open_whole(write(photos / "x.csv", "image,label,set", *lines)).splits["train"]) == 2
    assert "column 'set' names no splits and is not used" in caplog.text
    lines[0] = "0.png,ant,train"
    error = refusal(open_whole, write(photos / "x.csv", "image,label,set", *lines))
    assert "'A' in line 3" in str(error)


def test_the_first_folders_of_paths_may_be_splits(tmp_path: Path) -> None:
    make_images(tmp_path, "train/0.png", "train/1.png", "test/2.png")
    lines = ["train/0.png,ant", "train/1.png,bee", "test/2.png,bee"]
    file = write(tmp_path / "x.csv", "image,label", *lines)
    assert {n: len(s) for n, s in open_whole(file).splits.items()} == {"train": 2, "test": 1}
    # A single one is the folder of all images.
    file = write(tmp_path / "x.csv", "image,label", *lines[:2])
    assert {n: len(s) for n, s in open_whole(file, test_fraction=0.5).splits.items()} == {"train": 2}


def test_an_undivided_listing_is_divided(tmp_path: Path) -> None:
    make_images(tmp_path, *(f"{row}.png" for row in range(20)))
    file = write(tmp_path / "x.csv", "image,label", *(f"{r}.png,{NAMES[r % 2]}" for r in range(20)))
    data = open_whole(file, test_fraction=0.2, val_fraction=0.25)
    assert {n: len(s) for n, s in data.splits.items()} == {"train": 12, "val": 4, "test": 4}


# Labels


def test_integers_are_in_the_order_of_numbers_and_words_in_that_of_letters(photos: Path) -> None:
    for labels, names in (
        (("10", "9", "9.0", "10"), ("9", "10")),
        (("10", "9", "b", "a"), ("10", "9", "a", "b")),
        (("01", "9", "01", "9"), ("01", "9")),
    ):
        file = write(photos / "x.csv", "image,label", *(f"{r}.png,{y}" for r, y in enumerate(labels)))
        assert open_whole(file).class_names == names


def test_a_column_of_places_in_a_file_is_refused(photos: Path) -> None:
    file = write(photos / "x.csv", f"image,{COLUMN}", "0.png,ant", "1.png,bee")
    assert "must not have a column" in refusal(open_whole, file, label_column=COLUMN).rule


def test_integers_that_no_table_can_store_are_names(photos: Path) -> None:
    for large in (str(2**63), "-" + "9" * 25, "1" * 5000):
        labels = (large, "7", large, "7")
        file = write(photos / "l.csv", "image,label", *(f"{r}.png,{y}" for r, y in enumerate(labels)))
        assert sorted(open_whole(file).class_names) == sorted([large, "7"])
    edges = (str(2**63 - 1), str(-(2**63)))
    assert whole_numbers(edges) == [2**63 - 1, -(2**63)]


def test_readable_labels_are_preferred_to_numbers_of_classes(photos: Path) -> None:
    file = write(photos / "x.csv", "id,file,class_id,class", "7,0.png,1,bee", "8,1.png,0,ant")
    assert rows_of(open_whole(file)) == [("0.png", "bee", 0), ("1.png", "ant", 1)]


def test_columns_that_the_user_names(photos: Path) -> None:
    file = write(photos / "x.csv", "image,photo,label,dx,no", "a,0.png,?,nv,p", "b,1.png,?,mel,q")
    data = open_whole(file, image_column="photo", label_column="dx", key_column="no")
    assert rows_of(data) == [("p", "nv", 0), ("q", "mel", 1)]
    assert "Did you mean 'photo'" in str(refusal(open_whole, file, image_column="photos"))
    assert "--data.label_column must name a column" in str(refusal(open_whole, file, label_column="xx"))
    assert "--data.key_column must name a column" in str(
        refusal(open_whole, file, image_column="photo", label_column="dx", key_column="xx")
    )


def test_lines_that_repeat_an_image(photos: Path, caplog: pytest.LogCaptureFixture) -> None:
    lines = ["0.png,ant", "1.png,bee", "./0.png,ant"]
    assert len(open_whole(write(photos / "x.csv", "image,label", *lines)).splits["train"]) == 2
    assert "1 lines repeat an earlier image" in caplog.text
    error = refusal(open_whole, write(photos / "x.csv", "image,label", *lines, "0.png,bee"))
    assert "only one label: 0.png" in str(error)
    assert "ant and bee in lines 2, 5" in str(error)
    lines = ["0.png,ant,train", "1.png,bee,train", "0.png,ant,test"]
    error = refusal(open_whole, write(photos / "x.csv", "image,label,split", *lines))
    assert "only one split: 0.png" in str(error)


def test_labels_that_are_missing(photos: Path) -> None:
    error = refusal(open_whole, write(photos / "x.csv", "image,label", "0.png,ant", "1.png,", "2.png,bee"))
    assert "1 of 3 without one: line 3" in str(error)
    error = refusal(open_whole, write(photos / "x.csv", "image,label", "0.png,", "1.png,"))
    assert "2 of 2" in str(error)
    error = refusal(open_whole, write(photos / "x.csv", "image,label", "0.png,1", "1.png,-1", "2.png,0"))
    assert "1 of 3 rows with an empty or negative label" in str(error)
    (photos / "x.jsonl").write_text('{"image": "0.png", "label": 3}\n{"image": "1.png"}\n')
    assert "1 of 2 without one: line 2" in str(refusal(open_whole, photos / "x.jsonl"))


def test_a_held_out_split_without_labels(photos: Path, caplog: pytest.LogCaptureFixture) -> None:
    lines = ["0.png,ant,train", "1.png,bee,train", "2.png,,test", "3.png,,test"]
    assert list(open_whole(write(photos / "x.csv", "image,label,split", *lines)).splits) == ["train"]
    assert "no labels and are left out" in caplog.text


# Invalid files


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.csv", b"", "an empty file"),
        ("x.csv", b"\n \n", "only empty lines"),
        ("x.csv", b"image,label\n", "no lines besides the first"),
        (
            "x.csv",
            "image,label\n0.png,caf\u00e9\n".encode("latin-1"),
            "cannot be read(.|\n)*save it as UTF-8",
        ),
        ("x.csv", b"\xff\xfei\x00m\x00", "cannot be read"),
        ("x.csv", b"image,label\n0.png,ant,x\n", "must have 2 cells\nGot: 3 cells in line 2"),
        ("x.csv", b'image,label\n0.png,"ant\n1.png,bee\n', "must be a table of text"),
        ("x.csv", b"image,label,label\n0.png,ant,bee\n", "'label' twice"),
        ("x.csv", b"image,label\n,ant\n", "no name in line 2"),
        (
            "x.csv",
            b"number,label\n1,ant\n",
            "the images(.|\n)*columns: number, label(.|\n)*--data.image_column",
        ),
        ("x.csv", b"image,dx\n0.png,ant\n", "the labels(.|\n)*columns: image, dx(.|\n)*--data.label_column"),
        ("x.csv", b"image,file,label\n0.png,a,b\n", "2 candidates: image, file(.|\n)*--data.image_column"),
        ("x.csv", b"image,label,breed\n0.png,a,b\n", "2 candidates: label, breed(.|\n)*--data.label_column"),
        ("x.csv", b"image,label,split,set\n0.png,a,b,c\n", "2 candidates: split, set"),
        ("x.csv", b"image\n0.png\n", "columns: image"),
        ("x.jsonl", b'{"image": "0.png"', "line 1: "),
        ("x.jsonl", b'["0.png", "ant"]\n', "must be a JSON object"),
        ("x.jsonl", b'{"image": "0.png", "label": ["ant"]}\n', "text or numbers"),
        ("x.json", b'[{"image": "0.png"}', "valid JSON"),
        ("x.json", b"[1, 2]", "must be a JSON object"),
        ("x.json", b"{}", "columns: "),
        ("x.json", b"[]", "must list images"),
        ("x.csv", b",\n", "only empty lines"),
        ("x.csv", b'"" , ,\n;;\n', "only empty lines"),
        (
            "x.jsonl",
            b'{"image": "0.png", "label": "\\ud800"}\n{"image": "1.png", "label": "a"}',
            "'label' of .* valid Unicode(.|\n)*in line 1",
        ),
    ],
)
def test_invalid_files_are_named(photos: Path, name: str, content: bytes, message: str) -> None:
    (photos / name).write_bytes(content)
    with pytest.raises(DataError, match=message) as raised:
        open_whole(photos / name)
    assert name in str(raised.value)


@pytest.mark.parametrize("name", ["a\\0b.png", "x" * 400, "..", "."])
def test_names_that_no_file_can_have_are_missing(photos: Path, name: str) -> None:
    (photos / "x.csv").write_text(f"image,label\n{name.replace(chr(92) + '0', chr(0))},ant\n0.png,bee\n")
    assert "1 of 2 missing" in str(refusal(open_whole, photos / "x.csv"))


# Other uses


def test_calibration_and_unlabeled_images_may_be_listed(photos: Path) -> None:
    make_images(photos / "c", "4.png", "5.png")
    make_images(photos / "u", "6.png")
    data = open_whole(
        write(photos / "x.csv", "image,label", *(f"{r}.png,{y}" for r, y in enumerate(NAMES))),
        calibration=write(photos / "c" / "c.csv", "image,label", "4.png,bee", "5.png,ant"),
        unlabeled=str(write(photos / "u" / "u.csv", "image,price", "6.png,3")),
    )
    assert data.splits["calibration"].labels_N.tolist() == [1, 0]
    assert data.splits["train"].labels_N.tolist() == [0, 1, 0, 1, -1]
    divided = write(photos / "u" / "v.csv", "image,split", "6.png,test")
    assert "must have a training split" in str(refusal(open_whole, photos / "x.csv", unlabeled=str(divided)))
