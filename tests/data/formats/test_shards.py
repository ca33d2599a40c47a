"""WebDataset shards: labels, splits, patterns, and damaged or incomplete samples."""

from __future__ import annotations

import io
import json
import os
import re
import tarfile
from pathlib import Path

import datasets
import pytest

from richkd.core.errors import DataError
from richkd.data.columns import Columns
from richkd.data.formats.shards import open_shards, shards_of_pattern
from richkd.data.slices import COLUMN
from tests.data.formats.test_listings import open_whole, rows_of
from tests.data.test_sources import make_folder, png
from tests.fixtures import refusal


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")


def write_tar(file: Path, *members: tuple[str, bytes | str]) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(file, "w") as tar:
        for name, content in members:
            data = content.encode() if isinstance(content, str) else content
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return file


def samples(*labels: str, start: int = 0, suffix: str = "png") -> list[tuple[str, bytes | str]]:
    """Images whose red value is their number, each with a label."""
    rows = enumerate(labels, start)
    return [pair for n, y in rows for pair in ((f"{n:03}.{suffix}", png(n)), (f"{n:03}.cls", y))]


def test_splits_by_name_and_by_folder(tmp_path: Path) -> None:
    for root, names in (
        ("named", ("train-0000.tar", "train-0001.tar", "val-0000.tar")),
        ("inner", ("train/0000.tar", "train/0001.tar", "val/0000.tar")),
    ):
        write_tar(tmp_path / root / names[0], *samples("bee", "ant"))
        write_tar(tmp_path / root / names[1], *samples("bee\n", start=2, suffix="JPG"))
        write_tar(tmp_path / root / names[2], *samples("ant", start=7))
        data = open_whole(tmp_path / root)
        assert rows_of(data) == [("000", "bee", 0), ("001", "ant", 1), ("002", "bee", 2)]
        assert rows_of(data, "val") == [("007", "ant", 7)]


def test_integers_that_no_table_can_store_are_names(tmp_path: Path) -> None:
    large = "9" * 25
    data = open_whole(write_tar(tmp_path / "x.tar", *samples("7", large, "7")))
    assert data.class_names == ("7", large)


def test_calibration_has_the_members_of_the_data_where_it_has_them(tmp_path: Path) -> None:
    pairs = [(f"{n}.json", json.dumps({"label": "xy"[n % 2], "kind": ["ant", "bee"][n % 2]})) for n in (0, 1)]
    members = [one for n, pair in enumerate(pairs) for one in ((f"{n}.png", png(n)), pair)]
    file = write_tar(tmp_path / "a.tar", *members)
    other = write_tar(tmp_path / "b.tar", *samples("bee", "ant"))
    for calibration, expected in ((file, [0, 1]), (other, [1, 0])):
        given = {"label_column": "kind", "image_column": "png", "calibration": calibration}
        data = open_whole(file, **given)
        assert data.class_names == ("ant", "bee")
        assert data.splits["calibration"].labels_N.tolist() == expected


def test_integer_labels_are_in_the_order_of_numbers(tmp_path: Path) -> None:
    data = open_whole(write_tar(tmp_path / "x.tar", *samples("10", "9", "10")))
    assert data.class_names == ("9", "10")
    assert data.splits["train"].labels_N.tolist() == [1, 0, 1]


@pytest.mark.parametrize("option", [{}, {"label_column": "kind"}])
def test_labels_in_json(tmp_path: Path, option: dict[str, str]) -> None:
    entries = [{"class": "ant", "kind": "x"}, {"class": "bee", "kind": "y"}]
    members = [
        (f"a/{n}.{s}", c)
        for n, entry in enumerate(entries)
        for s, c in (("png", png(n)), ("json", json.dumps(entry)))
    ]
    data = open_whole(write_tar(tmp_path / "x.tar", *members), **option)
    assert data.class_names == (("x", "y") if option else ("ant", "bee"))
    assert data.splits["train"].keys() == ["a/0", "a/1"]


def test_members_that_the_user_names(tmp_path: Path) -> None:
    fields = (("left.png", png(1)), ("right.png", png(2)), ("kind", "a"), ("cls", "7"))
    more = (("left.png", png(3)), ("right.png", png(4)), ("kind", "b"), ("cls", "7"))
    members = [(f"{n}.{field}", c) for n, sample in enumerate((fields, more)) for field, c in sample]
    file = write_tar(tmp_path / "x.tar", *members)
    data = open_whole(file, image_column="right.png", label_column="kind")
    assert rows_of(data) == [("0", "a", 2), ("1", "b", 4)]
    assert "Every sample of" in str(refusal(open_whole, file))


def test_patterns(tmp_path: Path) -> None:
    for number in range(3):
        write_tar(tmp_path / f"train-{number:02}.tar", *samples("ant", "bee", start=2 * number))
    write_tar(tmp_path / "test-00.tar", *samples("bee", start=9))
    assert len(open_whole(tmp_path / "train-*.tar").splits["train"]) == 6
    assert len(open_whole(tmp_path / "train-{01..02}.tar").splits["train"]) == 4
    assert {n: len(s) for n, s in open_whole(tmp_path / "*.tar").splits.items()} == {"train": 6, "test": 1}
    assert "no file train-03.tar" in str(refusal(open_whole, tmp_path / "train-{00..03}.tar"))
    assert "no such file" in str(refusal(open_whole, tmp_path / "val-*.tar"))


def test_a_replaced_shard_is_noticed(tmp_path: Path) -> None:
    file = write_tar(tmp_path / "x.tar", *samples("ant", "bee"))
    before = file.stat()
    assert open_whole(file).splits["train"].labels_N.tolist() == [0, 1]
    write_tar(file, *samples("bee", "ant"))
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert open_whole(file).splits["train"].labels_N.tolist() == [1, 0]


def test_images_are_read_where_they_are_and_not_copied(tmp_path: Path) -> None:
    content = png(7) + bytes(200_000)
    file = write_tar(tmp_path / "x.tar", ("0.png", content), ("0.cls", "ant"), *samples("bee", start=1))
    split = open_whole(file).splits["train"]
    assert [name for name, _ in split.cells(0, 2)] == ["0", "001"]
    assert next(split.cells(0, 1))[1]["bytes"] == content
    assert split.read(1).getpixel((0, 0)) == (1, 0, 7)
    copies = [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    assert copies
    assert sum(path.stat().st_size for path in copies) < 50_000


def test_a_shard_that_changes_after_it_was_opened_is_named(tmp_path: Path) -> None:
    file = write_tar(tmp_path / "x.tar", *samples("ant", "bee"))
    split = open_whole(file).splits["train"]
    whole = file.read_bytes()
    os.utime(file, ns=(0, 0))
    error = refusal(split.read, 1)
    assert "Image 001 must be readable in " in error.rule
    assert error.got == "a file that was changed"
    split = open_whole(file).splits["train"]
    file.write_bytes(whole[:550])
    os.utime(file, ns=(0, 0))
    assert refusal(split.read, 0).got.startswith("38 of ")
    file.unlink()
    assert "No such file" in refusal(split.read, 0).got


def test_moved_shards_are_read_at_their_new_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_tar(tmp_path / "here" / "x.tar", *samples("ant", "bee"))
    for folder in ("here", "there"):
        monkeypatch.chdir(tmp_path / folder)
        assert open_whole(Path("x.tar")).splits["train"].read(1).getpixel((0, 0)) == (1, 0, 7)
        if folder == "here":
            (tmp_path / "here").rename(tmp_path / "there")


def test_unlabeled_images_of_shards_join_those_of_folders(tmp_path: Path) -> None:
    make_folder(tmp_path / "photos", {"train/a": 1, "train/b": 1})
    file = write_tar(tmp_path / "more.tar", ("0.png", png(9)), ("1.png", png(8)))
    train = open_whole(tmp_path / "photos", unlabeled=str(file)).splits["train"]
    assert train.labels_N.tolist() == [0, 1, -1, -1]
    assert [train.read(index).getpixel((0, 0))[0] for index in (2, 3)] == [9, 8]
    assert train.read(0).size
    shards = write_tar(tmp_path / "train.tar", *samples("ant", "bee"))
    train = open_whole(shards, unlabeled=str(tmp_path / "photos" / "train" / "a")).splits["train"]
    assert [train.read(index).mode for index in range(3)] == ["RGB"] * 3


def test_a_table_must_not_say_where_images_are(tmp_path: Path) -> None:
    secret = tmp_path / "secret.png"
    secret.write_bytes(png(1))
    place = {"file": str(secret), "offset": 0, "size": 10, "modified": secret.stat().st_mtime_ns}
    cells = [{"bytes": png(0), "path": None}] * 2
    rows = datasets.Dataset.from_dict({"image": cells, "label": [0, 1], COLUMN: [place, place]})
    (tmp_path / "data").mkdir()
    rows.to_parquet(tmp_path / "data" / "train.parquet")
    assert "must not have a column named" in refusal(open_whole, tmp_path / "data").rule


def test_samples_without_labels(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write_tar(tmp_path / "train.tar", *samples("ant", "bee"))
    write_tar(tmp_path / "test.tar", ("0.png", png(0)), ("1.png", png(1)))
    assert list(open_whole(tmp_path).splits) == ["train"]
    assert "no labels and are left out" in caplog.text
    write_tar(tmp_path / "train.tar", *samples("ant", "bee"), ("9.png", png(0)))
    assert "1 of 3 rows with an empty" in str(refusal(open_whole, tmp_path))
    data = open_whole(
        write_tar(tmp_path / "x/train.tar", *samples("a", "b")), unlabeled=str(tmp_path / "test.tar")
    )
    assert data.splits["train"].labels_N.tolist() == [0, 1, -1, -1]


def test_files_that_belong_to_no_sample_are_ignored(tmp_path: Path) -> None:
    members = [("README.md", "text"), ("._000.png", b"x"), *samples("ant", "bee")]
    assert len(open_whole(write_tar(tmp_path / "x.tar", *members)).splits["train"]) == 2


@pytest.mark.parametrize(
    ("members", "message"),
    [
        ([("0.cls", "ant")], "must have one image(.|\n)*0 with cls"),
        ([("0.png", b"x"), ("1.png", b"x"), ("0.cls", "ant")], "0 with cls"),
        (
            [("0.png", b"x"), ("0.jpg", b"x"), ("0.cls", "ant")],
            "0 with png, jpg, cls(.|\n)*--data.image_column",
        ),
        ([("0.png", b"x"), ("0.cls", b"\xff")], "label of 0 of .*x.tar must be readable"),
        ([("0.png", b"x"), ("0.json", "{")], "label of 0 of .*x.tar must be readable"),
        ([("0.png", b"x"), ("0.json", "[1]")], "JSON of 0 of .*x.tar must be an object"),
        ([("0.png", b"x"), ("0.json", '{"label": [1]}')], "must contain|text or a number"),
        ([("0.png", b"x"), ("0.json", '{"label": 1, "breed": 2}')], "2 candidates: label, breed"),
        ([("README.md", b"x")], "must contain images"),
        ([], "must contain images"),
    ],
)
def test_invalid_samples_are_named(
    tmp_path: Path, members: list[tuple[str, bytes | str]], message: str
) -> None:
    error = refusal(open_whole, write_tar(tmp_path / "x.tar", *members))
    assert re.search(message, str(error)), error


def test_hidden_copies_of_shards_are_ignored(tmp_path: Path) -> None:
    write_tar(tmp_path / "train-0.tar", *samples("ant", "bee"))
    (tmp_path / "._train-0.tar").write_bytes(b"\0\5\26\7")
    assert open_whole(tmp_path).class_names == ("ant", "bee")


def test_damaged_files_are_named(tmp_path: Path) -> None:
    file = write_tar(tmp_path / "x.tar", *samples("ant", "bee"))
    file.write_bytes(file.read_bytes()[:700])
    assert "x.tar must be a tar file" in str(refusal(open_whole, file))
    file.write_bytes(b"no tar")
    assert "x.tar must be a tar file" in str(refusal(open_whole, file))
    file.touch()
    write_tar(tmp_path / "train.tar", *samples("ant", "bee"))
    assert "x.tar without a split name" in str(refusal(open_whole, tmp_path))


def test_an_archive_beside_its_images_is_no_shard(tmp_path: Path) -> None:
    make_folder(tmp_path, {"train/a": 1, "train/b": 1})
    write_tar(tmp_path / "train.tar", *samples("x", "y"))
    assert open_whole(tmp_path).class_names == ("a", "b")


def test_members_that_state_more_than_the_file_holds_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "zoo.tar"
    for size, kind in ((1 << 40, tarfile.REGTYPE), (1 << 40, tarfile.GNUTYPE_SPARSE)):
        member = tarfile.TarInfo("0.jpg")
        member.size, member.type = size, kind
        file.write_bytes(member.tobuf(tarfile.GNU_FORMAT) + bytes(1024))
        error = refusal(open_shards, [file], Columns())
        assert "zoo.tar must be a tar file" in error.rule


def test_a_sparse_member_is_refused_before_it_fills_the_memory(tmp_path: Path) -> None:
    # A sparse file of GNU tar in the format of pax: a map "1 block of 1 byte at 0" of a file of 1 TB.
    headers = {
        "GNU.sparse.major": "1",
        "GNU.sparse.minor": "0",
        "GNU.sparse.realsize": str(1 << 40),
        "GNU.sparse.name": "0.jpg",
    }
    member, content = tarfile.TarInfo("0.jpg"), b"1\n0\n1\n".ljust(512, b"\0") + b"a"
    member.pax_headers, member.size = headers, len(content)
    with tarfile.open(tmp_path / "zoo.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        tar.addfile(member, io.BytesIO(content))
    error = refusal(open_shards, [tmp_path / "zoo.tar"], Columns())
    assert "states 1,099,511,627,776 bytes" in str(error.got)


def test_damaged_headers_end_in_words(tmp_path: Path) -> None:
    file = tmp_path / "zoo.tar"
    with tarfile.open(file, "w", format=tarfile.PAX_FORMAT) as tar:
        for name in ("0.cls", "ä" * 120 + ".jpg", "1.jpg"):
            member = tarfile.TarInfo(name)
            member.size = 1
            tar.addfile(member, io.BytesIO(b"a"))
    whole = file.read_bytes()
    for place in range(0, 4096, 97):
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :])
        try:
            open_shards([file], Columns())
        except DataError:
            continue


def test_a_range_of_too_many_names_is_refused(tmp_path: Path) -> None:
    for name in ("a-{0..999999999999}.tar", "{0..9999}-{0..9999}.tar", "{0..%s}.tar" % ("9" * 30)):
        assert "at most 1,000,000 tar files" in refusal(shards_of_pattern, str(tmp_path / name)).rule
