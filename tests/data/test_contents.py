"""Unchanged files are not read again, and changed ones always are."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable
from pathlib import Path

import datasets
import numpy as np
import pytest

from richkd.config.schema import DataConfig
from richkd.core.errors import CheckpointError, DataError
from richkd.core.lock import FileLock
from richkd.data import contents as module
from richkd.data.contents import KEPT, LOCK, Contents, stamp_of
from richkd.data.sources import open_data
from richkd.data.split import Split
from richkd.data.stamps import Stamps
from tests.fixtures import World, flip_bit, refusal


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    # Files that were just written are hashed again next time, which has a test of its own.
    monkeypatch.setattr(module, "STEP_NS", 0)
    folder = tmp_path / "photos"
    folder.mkdir()
    paths = [folder / f"{number}.bin" for number in range(5)]
    for number, path in enumerate(paths):
        path.write_bytes(bytes([number]) * 100)
    return paths


def hashes(files: list[Path], folder: Path | None) -> tuple[list[str], int]:
    """Hashes of files, and how many of them were read."""
    lines: list[str] = []
    contents = Contents(folder, lines.append)
    named = [(path.name, path) for path in files]
    with contents.kept():
        stamps_N4 = np.array([stamp_of(*image) for image in named])
        digests_N32 = contents.hash_files(named, stamps_N4)
    read = [int(line.split()[2]) for line in lines if " reading " in line]
    return [bytes(row).hex() for row in digests_N32], sum(read)


def expected(files: list[Path]) -> list[str]:
    return [hashlib.sha256(path.read_bytes()).hexdigest() for path in files]


def same_size_and_time(file: Path) -> None:
    """Other bytes, written in place."""
    status = file.stat()
    file.write_bytes(b"x" * status.st_size)
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))


def replaced(file: Path) -> None:
    """Other bytes, moved to the place of the file."""
    status, other = file.stat(), file.with_name("other")
    other.write_bytes(b"y" * status.st_size)
    os.utime(other, ns=(status.st_atime_ns, status.st_mtime_ns))
    other.replace(file)


def larger(file: Path) -> None:
    file.write_bytes(file.read_bytes() + b"z")


@pytest.mark.parametrize("change", [same_size_and_time, replaced, larger])
def test_only_changed_files_are_read_again(
    files: list[Path], tmp_path: Path, change: Callable[[Path], None]
) -> None:
    assert hashes(files, tmp_path) == (expected(files), 5)
    assert hashes(files, tmp_path) == (expected(files), 0)
    change(files[2])
    assert hashes(files, tmp_path) == (expected(files), 1)
    assert hashes(files, tmp_path) == (expected(files), 0)
    # Other files beside these change nothing.
    (files[0].parent / "new.bin").write_bytes(b"new")
    more = [files[0].parent / "new.bin", *files[::-1]]
    assert hashes(more, tmp_path) == (expected(more), 1)
    assert hashes(files, tmp_path)[1] == 0


def test_nothing_is_kept_without_a_folder(files: list[Path]) -> None:
    assert hashes(files, None) == hashes(files, None) == (expected(files), 5)


def test_files_that_were_just_written_are_read_again(
    files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "STEP_NS", int(3600e9))
    assert hashes(files, tmp_path)[1] == hashes(files, tmp_path)[1] == 5
    os.utime(files[0], ns=(0, 0))  # the time of change is that of now
    assert hashes(files, tmp_path)[1] == 5


def test_a_damaged_file_of_hashes_is_not_used(files: list[Path], tmp_path: Path) -> None:
    hashes(files, tmp_path)
    flip_bit(tmp_path / KEPT, 8 * (tmp_path / KEPT).stat().st_size - 300)
    lines: list[str] = []
    with Contents(tmp_path, lines.append).kept():
        pass
    assert "warning" in lines[0]
    assert str(tmp_path / KEPT) in lines[0]
    assert hashes(files, tmp_path) == (expected(files), 5)
    assert hashes(files, tmp_path) == (expected(files), 0)


def test_what_was_read_before_an_error_is_kept(files: list[Path], tmp_path: Path) -> None:
    named = [(path.name, path) for path in files]
    contents = Contents(tmp_path)
    with contents.kept():
        stamps_N4 = np.array([stamp_of(*image) for image in named])
    files[4].unlink()
    error = None
    try:
        with contents.kept():
            contents.hash_files(named, stamps_N4)
    except DataError as caught:
        error = caught
    assert error is not None
    assert error.rule == "Image 4.bin must be readable"
    assert hashes(files[:4], tmp_path)[1] == 0


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    error = refusal(Contents(tmp_path / "file" / "cache").kept().__enter__)
    assert isinstance(error, CheckpointError)
    assert str(tmp_path / "file" / "cache") in error.rule


def test_a_folder_that_can_only_be_read_is_used(
    files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert hashes(files[:3], tmp_path)[1] == 3

    def read_only(*arguments: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("richkd.core.lock._open", read_only)
    monkeypatch.setattr("richkd.core.files.os.fsync", read_only)
    assert hashes(files[:3], tmp_path) == (expected(files[:3]), 0)
    assert hashes(files, tmp_path) == (expected(files), 2)
    lines: list[str] = []
    contents = Contents(tmp_path, lines.append)
    with contents.kept():
        contents.hash_files([("new", files[4])], np.array([stamp_of("new", files[4])]))
    assert "Permission denied" in lines[-1]


def test_another_process_is_waited_for(tmp_path: Path) -> None:
    order: list[str] = []

    def second() -> None:
        with Contents(tmp_path).kept():
            order.append("second")

    with FileLock(tmp_path / LOCK):
        thread = threading.Thread(target=second)
        thread.start()
        thread.join(0.3)
        order.append("first")
    thread.join()
    assert order == ["first", "second"]
    assert not (tmp_path / LOCK).exists()


def test_reading_is_logged_while_it_lasts(
    files: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LOG_SECONDS", 0.0)
    lines: list[str] = []
    contents = Contents(None, lines.append)
    stamps_N4 = np.array([stamp_of(path.name, path) for path in files])
    contents.hash_files([(path.name, path) for path in files], stamps_N4)
    assert "reading 5 files (5e-07 GB)" in lines[0]
    assert "3 of 5 files read" in lines[3]
    assert lines[-1].startswith("images: 5 files read in 0.")


def embedded(world: World, tmp_path: Path) -> Split:
    """Training images inside a parquet file, without those that are held out."""
    paths = sorted((world.images / "train").rglob("*.png"))
    cells = [{"bytes": path.read_bytes(), "path": path.name} for path in paths]
    features = datasets.Features({"image": datasets.Image(), "label": datasets.Value("string")})
    columns = {"image": cells, "label": [path.parent.name for path in paths]}
    table = datasets.Dataset.from_dict(columns, features=features)
    (tmp_path / "zoo").mkdir(exist_ok=True)
    table.to_parquet(tmp_path / "zoo" / "train.parquet")
    return open_data(DataConfig(path=str(tmp_path / "zoo"), val_fraction=0.25), 0).splits["train"]


def test_embedded_images_are_read_once(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")
    split = embedded(world, tmp_path)
    prints = {Stamps().fingerprint(split, "8"), Stamps().fingerprint(split, "8", Contents(tmp_path))}
    read = []
    monkeypatch.setattr(Split, "cells", lambda self, *place: read.append(place))
    again = open_data(DataConfig(path=str(tmp_path / "zoo"), val_fraction=0.25), 0).splits["train"]
    prints.add(Stamps().fingerprint(again, "8", Contents(tmp_path)))
    assert len(prints) == 1
    assert not read
    monkeypatch.undo()
    # Other rows of the same file.
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")
    other = open_data(DataConfig(path=str(tmp_path / "zoo"), val_fraction=0.25), 1).splits["train"]
    assert Stamps().fingerprint(other, "8", Contents(tmp_path)) == Stamps().fingerprint(other, "8")
    assert Stamps().fingerprint(other, "8") not in prints


def test_embedded_images_of_the_same_size_and_time_are_read_again(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")
    before = Stamps().fingerprint(embedded(world, tmp_path), "8", Contents(tmp_path))
    file = tmp_path / "zoo" / "train.parquet"
    status, content = file.stat(), bytearray(file.read_bytes())
    # A byte inside the pixels of an image.
    place = content.index(b"IDAT", len(content) // 2) + 40
    content[place] ^= 255
    file.write_bytes(content)
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    config = DataConfig(path=str(tmp_path / "zoo"), val_fraction=0.25)
    assert Stamps().fingerprint(open_data(config, 0).splits["train"], "8", Contents(tmp_path)) != before
