"""Parquet files that ask for much more memory than they have bytes, or that are damaged."""

from __future__ import annotations

import contextlib
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import datasets
import pyarrow
import pyarrow.parquet
import pytest

from richkd.core.errors import DataError, ImageError
from richkd.data.columns import as_split
from richkd.data.formats import parquet, parquet_rows
from richkd.data.formats.parquet import open_parquet
from richkd.data.slices import COLUMN
from richkd.data.split import Split
from tests.fixtures import refusal

LARGE = 1 << 16


def write(file: Path, cells: list[bytes], **options: object) -> Path:
    table = pyarrow.table({"image": cells, "label": [row % 2 for row in range(len(cells))]})
    pyarrow.parquet.write_table(table, file, **options)
    return file


@pytest.mark.parametrize(
    ("cells", "options"),
    [
        ([bytes(LARGE)] * 500, {"use_dictionary": True}),
        ([bytes(LARGE)] * 500, {"use_dictionary": False, "compression": "zstd"}),
        (
            [bytes([row]) + bytes(1 << 22) for row in range(8)],
            {"use_dictionary": False, "compression": "gzip"},
        ),
    ],
    ids=["dictionary", "zstd", "gzip"],
)
def test_cells_that_grow_are_refused(
    tmp_path: Path, cells: list[bytes], options: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write(tmp_path / "zoo.parquet", cells, **options)
    assert len(open_parquet([file])) == len(cells)
    monkeypatch.setattr(parquet, "FREE", 1 << 20)
    error = refusal(open_parquet, [file])
    assert "column 'image' grows to more than" in str(error.got)
    assert "zoo.parquet" in error.rule


def test_images_that_repeat_a_little_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet, "FREE", 1 << 10)
    cells = [bytes([number]) * 1000 for number in (1, 2, 3)] * 20
    file = write(tmp_path / "zoo.parquet", cells, compression="none")
    assert open_parquet([file])["image"][:] == cells


def test_columns_of_unknown_types_and_of_equal_names_are_named(tmp_path: Path) -> None:
    cells = pyarrow.array([{"bytes": b"a", "path": "x"}] * 2)
    labels = pyarrow.array(["ant", "bee"])
    notes = pyarrow.array([[("a", 1)]] * 2, pyarrow.map_(pyarrow.string(), pyarrow.int32()))
    for names, got in (
        (["image", "label", "notes"], "'notes' of type map<string, int32"),
        (["image", "label", "label"], "'label' twice"),
    ):
        columns = [cells, labels, notes if names[2] == "notes" else labels]
        pyarrow.parquet.write_table(pyarrow.Table.from_arrays(columns, names), tmp_path / "zoo.parquet")
        error = refusal(open_parquet, [tmp_path / "zoo.parquet"])
        assert got in str(error.got)
        assert "drop" in str(error.fix)
        assert "The columns of" in error.rule
    assert parquet_rows.column_of_images([tmp_path / "zoo.parquet"]) is None


def test_damage_at_any_place_is_refused_or_harmless(tmp_path: Path) -> None:
    whole = write(tmp_path / "zoo.parquet", [b"a" * 20, b"b" * 20] * 10).read_bytes()
    for place in range(0, len(whole), 61):
        content = whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :]
        (tmp_path / "zoo.parquet").write_bytes(content)
        try:
            open_parquet([tmp_path / "zoo.parquet"])
        except DataError:
            continue


@pytest.mark.parametrize(
    "text", ["[]", "{", '{"info": 1}', '{"info": {"features": {"label": {"_type": "X"}}}}']
)
def test_metadata_of_features_may_be_anything(tmp_path: Path, text: str) -> None:
    table = pyarrow.table({"image": [b"a"], "label": [0]}).replace_schema_metadata({"huggingface": text})
    pyarrow.parquet.write_table(table, tmp_path / "zoo.parquet")
    with contextlib.suppress(DataError):
        open_parquet([tmp_path / "zoo.parquet"])


def image_of(row: int) -> bytes:
    return f"image {row}".encode() * (row + 1)


def write_images(file: Path, rows: range, column: str = "image", **other: list[Any]) -> Path:
    """A file of encoded images in row groups of three."""
    cells = [{"bytes": image_of(row), "path": "/etc/hostname"} for row in rows]
    kind = pyarrow.struct({"bytes": pyarrow.binary(), "path": pyarrow.string()})
    table = pyarrow.table(
        {column: pyarrow.array(cells, kind), "label": [f"class {row % 2}" for row in rows], **other}
    )
    pyarrow.parquet.write_table(table, file, row_group_size=3)
    return file


def split_of(*files: Path) -> Split:
    return as_split(open_parquet(files), "train", "zoo")


def images_of(split: Split) -> list[Any]:
    return [cell["bytes"] for _, cell in split.cells(0, len(split))]


def test_images_are_read_where_they_are(tmp_path: Path) -> None:
    rows = {"a.parquet": range(7), "b.parquet": range(7, 9)}
    files = [write_images(tmp_path / name, some) for name, some in rows.items()]
    split = split_of(*files)
    assert images_of(split) == [image_of(row) for row in range(9)]
    assert split.labels_N.tolist() == [0, 1] * 4 + [0]
    assert {cell["bytes"] for cell in split.table["image"][:]} == {None}
    order = [8, 0, 5, 5, 1, 7, 2]
    with ThreadPoolExecutor(4) as pool:
        read = list(pool.map(lambda at: [cell["bytes"] for _, cell in split.cells_at(at)], [order] * 20))
    assert read == [[image_of(row) for row in order]] * 20


@pytest.mark.parametrize("why", ["large groups", "two columns", "no statistics"])
def test_other_images_are_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, why: str) -> None:
    two = {"other": [{"bytes": b"x", "path": None}] * 4} if why == "two columns" else {}
    file = write_images(tmp_path / "a.parquet", range(4), **two)
    if why == "large groups":
        monkeypatch.setattr(parquet_rows, "GROUP", 8)
    if why == "no statistics":
        table = pyarrow.parquet.read_table(file)
        pyarrow.parquet.write_table(table, file, write_statistics=False)
    rows = open_parquet([file])
    assert COLUMN not in rows.column_names
    cells = rows.cast_column("image", datasets.Image(decode=False))["image"][:]
    assert [cell["bytes"] for cell in cells] == [image_of(row) for row in range(4)]


def test_a_file_that_changes_after_it_was_opened_is_named(tmp_path: Path) -> None:
    file = write_images(tmp_path / "zoo.parquet", range(4))
    split = split_of(file)
    write_images(file, range(4, 8))
    os.utime(file, ns=(0, 0))
    with pytest.raises(ImageError, match=r"readable in .*zoo\.parquet(.|\n)*was changed"):
        images_of(split)
    file.unlink()
    with pytest.raises(ImageError, match="No such file"):
        images_of(split)


def test_a_cell_without_bytes_names_a_file(tmp_path: Path) -> None:
    cells = [{"bytes": b"inside", "path": None}, {"bytes": None, "path": "outside.png"}]
    (tmp_path / "outside.png").write_bytes(b"outside")
    kind = pyarrow.struct({"bytes": pyarrow.binary(), "path": pyarrow.string()})
    table = pyarrow.table({"image": pyarrow.array(cells, kind), "label": ["a", "b"]})
    pyarrow.parquet.write_table(table, tmp_path / "zoo.parquet")
    rows = open_parquet([tmp_path / "zoo.parquet"])
    assert COLUMN not in rows.column_names
    second = rows.cast_column("image", datasets.Image(decode=False))["image"][1]
    assert second == {"bytes": None, "path": str(tmp_path / "outside.png")}


def test_a_column_of_places_in_a_file_is_refused(tmp_path: Path) -> None:
    file = write_images(tmp_path / "zoo.parquet", range(2), **{COLUMN: ["a", "b"]})
    assert COLUMN in refusal(open_parquet, [file]).rule
