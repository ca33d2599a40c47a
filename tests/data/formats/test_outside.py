"""A table of images must not choose which files of the machine are read."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from pathlib import Path

import datasets
import pyarrow.parquet
import pytest
from PIL import Image

from richkd.config.schema import DataConfig
from richkd.data.formats import hub
from richkd.data.formats.outside import named_files, place_files
from richkd.data.sources import open_data
from richkd.data.split import Data
from tests.fixtures import refusal

CELL = {"bytes": datasets.Value("binary"), "path": datasets.Value("string")}


def picture(file: Path) -> str:
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (4, 4), "red").save(file)
    return str(file)


def parquet(file: Path, paths: list[str | None], *, image: bool = True) -> None:
    """A table of images by path; None for one whose bytes are in the table."""
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4), "blue").save(buffer, "PNG")
    cells = [{"bytes": buffer.getvalue() if path is None else None, "path": path} for path in paths]
    labels = [("ant", "bee")[row % 2] for row in range(len(paths))]
    features = {"image": datasets.Image(decode=False) if image else CELL, "label": datasets.Value("string")}
    table = datasets.Dataset.from_dict({"image": cells, "label": labels}, datasets.Features(features))
    # The writer of `datasets` would store the bytes of the files.
    pyarrow.parquet.write_table(table.data.table, file)


def opened(path: Path) -> Data:
    return open_data(DataConfig(path=str(path), val_fraction=0, test_fraction=0))


@pytest.mark.parametrize("image", [False, True])
@pytest.mark.parametrize("as_file", [False, True])
def test_paths_in_parquet_are_relative_to_the_data(tmp_path: Path, image: bool, as_file: bool) -> None:
    zoo = tmp_path / "zoo"
    picture(zoo / "images" / "0.png")
    parquet(zoo / "zoo.parquet", ["images/0.png", None, str(zoo / "images" / "0.png"), None], image=image)
    train = opened(zoo / "zoo.parquet" if as_file else zoo).splits["train"]
    assert [train.read(row).getpixel((0, 0)) for row in range(4)] == [(255, 0, 0), (0, 0, 255)] * 2


@pytest.mark.parametrize("name", ["absolute", "up", "link", "folder link", "up from a link"])
def test_paths_that_lead_out_are_refused(tmp_path: Path, name: str) -> None:
    zoo = tmp_path / "zoo"
    secret = picture(tmp_path / "private" / "0.png")
    picture(zoo / "1.png")
    (zoo / "link.png").symlink_to(secret)
    (zoo / "folder").symlink_to(tmp_path / "private")
    path = {
        "absolute": secret,
        "up": "../private/0.png",
        "link": "link.png",
        "folder link": "folder/0.png",
        "up from a link": "folder/..//private/0.png",
    }[name]
    parquet(zoo / "zoo.parquet", [path, "1.png"])
    error = refusal(opened, zoo)
    assert "must be inside" in error.rule
    assert "zoo.parquet" in error.rule
    assert error.got == f"1 outside: {path}"
    (zoo / "zoo.parquet").unlink()
    (zoo / "metadata.csv").write_text(f"image,label\n{path},ant\n1.png,bee\n")
    assert refusal(opened, zoo).got == f"1 outside: {path}"
    for split in ("train", "test"):
        (zoo / f"{split}.csv").write_text(f"image,label\n{path},ant\n1.png,bee\n")
    (zoo / "metadata.csv").unlink()
    assert refusal(opened, zoo).got == f"1 outside: {path}"
    # A list that the user names may list any file.
    assert len(opened(zoo / "train.csv").splits["train"]) == 2


def test_pipes_are_refused_without_waiting(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    parquet(tmp_path / "zoo.parquet", ["pipe.png", "pipe.png"])
    train = opened(tmp_path).splits["train"]
    assert "a pipe" in str(refusal(train.read, 0).got)
    for name in ("zoo.parquet", "zoo.tar", "metadata.csv", "zoo.csv"):
        folder = tmp_path / name.replace(".", "-")
        folder.mkdir()
        os.mkfifo(folder / name)
        for path in (folder, folder / name):
            error = refusal(opened, path)
            assert "pipe" in str(error) or path == folder


def test_a_table_of_the_hub_cannot_name_files_of_the_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def tables(path: str) -> Mapping[str, datasets.Dataset]:
        cells = [{"bytes": None, "path": str(tmp_path / folder / "0.png")} for folder in ("cache", "private")]
        return {"train": datasets.Dataset.from_dict({"image": cells[: 1 + (path == "a/bad")]})}

    monkeypatch.setattr(datasets, "load_dataset", tables)
    monkeypatch.setattr("huggingface_hub.constants.HF_HOME", str(tmp_path / "cache"))
    assert len(hub.load_hub("a/good")["train"]) == 1
    assert str(tmp_path / "private") in str(refusal(hub.load_hub, "a/bad").got)


def test_a_path_that_no_system_takes_is_refused(tmp_path: Path) -> None:
    parquet(tmp_path / "zoo.parquet", ["a\0b.png", "1.png"])
    assert "must be inside" in refusal(opened, tmp_path).rule


def test_tables_with_bytes_are_left_as_they_are() -> None:
    rows = datasets.Dataset.from_dict({"image": [{"bytes": b"a", "path": "/x"}], "raw": [b"a"], "n": [1]})
    assert [named_files(rows, name) for name in rows.column_names] == [{}, {}, {}]
    assert place_files(rows, Path("zoo"), "x") is rows
