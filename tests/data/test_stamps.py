"""Files that change after their fingerprint are found when they are read."""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from richkd.core.errors import DataError
from richkd.data.augmentations import RandomResizedCrop
from richkd.data.batches import Streamed
from richkd.data.formats.scan import file_table
from richkd.data.framing import Framing
from richkd.data.pictures import Pictures
from richkd.data.split import Split
from richkd.data.stamps import Stamps
from tests.fixtures import refusal

GROUPS = [torch.tensor([0, 1]), torch.tensor([2, 0]), torch.tensor([1, 3])]


@pytest.fixture
def split(tmp_path: Path) -> Split:
    files = [tmp_path / f"{number}.png" for number in range(4)]
    for file in files:
        Image.new("RGB", (9, 9), "red").save(file)
    rows = file_table(files, [0, 1, 0, 1], ["ant", "bee"], tmp_path)
    return Split("train", rows, torch.tensor([0, 1, 0, 1]), ("ant", "bee"), "image", "file")


def modify(file: Path) -> None:
    """Another content of the same size at another time."""
    Image.new("RGB", (9, 9), "blue").save(file)
    os.utime(file, ns=(1, 1))


def enlarge(file: Path) -> None:
    """The same pixels and time in a larger file."""
    time = file.stat().st_mtime_ns
    file.write_bytes(file.read_bytes() + b"comment")
    os.utime(file, ns=(time, time))


def repaint(file: Path) -> None:
    """Other pixels in a file of the same size and time, as a tool that keeps times writes them."""
    status = file.stat()
    for green in range(1, 256):
        Image.new("RGB", (9, 9), (255, green, 0)).save(file)
        if file.stat().st_size == status.st_size:
            break
    assert file.stat().st_size == status.st_size
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))


def swap(file: Path) -> None:
    """The same, in a new file that is moved to the place of the old one."""
    copy = file.with_name("copy.png")
    shutil.copy2(file, copy)
    repaint(copy)
    copy.replace(file)


def touch(file: Path) -> None:
    """Another time and other rights."""
    file.chmod(0o600)
    os.utime(file, ns=(1, 1))


def remove(file: Path) -> None:
    file.unlink()


def replace(file: Path) -> None:
    """A folder in the place of the file."""
    file.unlink()
    file.mkdir()


def read(store: Streamed | Pictures) -> None:
    views = [RandomResizedCrop().draw(0, 0, index_B) for index_B in GROUPS]
    list(store.batches(GROUPS, views))


def store_of(kind: str, split: Split, workers: int) -> Streamed | Pictures:
    if kind == "squares":
        return Streamed(split, Framing(8), workers, training=True)
    return Pictures(split, 8, (8,), workers)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["squares", "pictures"])
@pytest.mark.parametrize(
    ("workers", "change", "reason"),
    [
        (0, modify, "it changed"),
        (0, enlarge, "it changed"),
        (0, repaint, "another content"),
        (0, swap, "another content"),
        (0, remove, "no such file"),
        (0, replace, "a folder"),
        (1, modify, "it changed"),
    ],
)
def test_a_file_that_changes_between_two_epochs_is_named(
    split: Split, tmp_path: Path, kind: str, workers: int, change: Callable[[Path], None], reason: str
) -> None:
    store = store_of(kind, split, workers)
    store.fingerprint()
    read(store)
    change(tmp_path / "2.png")
    error = refusal(read, store)
    assert isinstance(error, DataError)
    assert "Image 2.png" in error.rule
    assert reason in str(error.got)
    assert "Traceback" not in str(error)


@pytest.mark.parametrize("kind", ["squares", "pictures"])
def test_without_stored_outputs_files_may_change(split: Split, tmp_path: Path, kind: str) -> None:
    store = store_of(kind, split, 0)
    read(store)
    modify(tmp_path / "2.png")
    read(store)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["squares", "pictures"])
def test_a_file_with_other_times_and_the_same_content_is_no_change(
    split: Split, tmp_path: Path, kind: str
) -> None:
    store = store_of(kind, split, 0)
    before = store.fingerprint()
    read(store)
    touch(tmp_path / "2.png")
    read(store)
    assert store_of(kind, split, 0).fingerprint() == before


def test_a_moved_data_set_has_the_same_fingerprint(split: Split, tmp_path: Path) -> None:
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    files = [Path(shutil.copy(tmp_path / f"{number}.png", moved)) for number in range(4)]
    rows = file_table(files, [0, 1, 0, 1], ["ant", "bee"], tmp_path)
    assert Stamps().fingerprint(dataclasses.replace(split, table=rows), "8") == Stamps().fingerprint(
        split, "8"
    )


def test_the_fingerprint_depends_on_the_order_of_images(split: Split, tmp_path: Path) -> None:
    modify(tmp_path / "3.png")
    turned = split.select("train", np.array([3, 2, 1, 0]))
    assert Stamps().fingerprint(turned, "8") != Stamps().fingerprint(split, "8")


@pytest.mark.parametrize("change", [modify, enlarge, repaint, swap])
def test_the_fingerprint_sees_every_change(
    split: Split, tmp_path: Path, change: Callable[[Path], None]
) -> None:
    before = Stamps().fingerprint(split, "8")
    assert Stamps().fingerprint(split, "8") == before
    change(tmp_path / "3.png")
    assert Stamps().fingerprint(split, "8") != before


def test_a_file_that_is_gone_has_no_fingerprint(split: Split, tmp_path: Path) -> None:
    (tmp_path / "1.png").unlink()
    error = refusal(Stamps().fingerprint, split, "8")
    assert isinstance(error, DataError)
    assert error.rule == "Image 1.png must be readable"
