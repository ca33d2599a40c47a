"""Stores of corrupted images: computed from a split, and read from files like the published ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from richkd.config.schema import DataConfig
from richkd.core.errors import DataError
from richkd.data.batches import open_store
from richkd.data.framing import Framing
from richkd.data.order import in_order
from richkd.data.sources import open_data
from richkd.data.split import Split
from richkd.evaluate.corruptions.corrupt import corrupt
from richkd.evaluate.corruptions.stores import CorruptedStore, published_stores
from tests.fixtures import SIZE, World, refusal


@pytest.fixture
def split(world: World) -> Split:
    return open_data(DataConfig(path=str(world.images)), 0).splits["test"]


def write_published(folder: Path, split: Split, *, repeats: int = 5) -> np.ndarray:
    """Write the files of one corruption; severity s subtracts 10·s from every value."""
    folder.mkdir(exist_ok=True)
    pixels = next(
        iter(open_store(split, Framing(SIZE)).batches([torch.arange(len(split))]))
    ).pixels_BHWC.numpy()
    severities = [(pixels.astype(int) - 10 * s).clip(0, 255).astype(np.uint8) for s in range(1, 6)]
    np.save(folder / "fog.npy", np.concatenate(severities))
    np.save(folder / "labels.npy", np.tile(split.labels_N.numpy().astype(np.uint8), repeats))
    return pixels


def test_a_store_is_corrupted_batch_by_batch(split: Split) -> None:
    store = open_store(split, Framing(SIZE))
    bad = CorruptedStore(store, "fog", 3)
    assert (bad.size, bad.split) == (store.size, split)
    assert bad.fingerprint() != store.fingerprint()
    for clean, corrupted in zip(
        store.batches(in_order(len(split), 5)), bad.batches(in_order(len(split), 5)), strict=True
    ):
        assert torch.equal(corrupted.pixels_BHWC, corrupt(clean.pixels_BHWC, "fog", 3))
        assert torch.equal(corrupted.labels_B, clean.labels_B)
        assert corrupted.split is None


@pytest.mark.parametrize("repeats", [1, 5])
def test_published_files_are_read_severity_by_severity(tmp_path: Path, split: Split, repeats: int) -> None:
    pixels = write_published(tmp_path, split, repeats=repeats)
    stores = published_stores(tmp_path, "fog", split)
    for severity, store in enumerate(stores, start=1):
        (batch,) = store.batches([torch.tensor([5, 0])])
        expected = (pixels[[5, 0]].astype(int) - 10 * severity).clip(0, 255)
        assert np.array_equal(batch.pixels_BHWC.numpy(), expected)
        assert torch.equal(batch.labels_B, split.labels_N[[5, 0]])
        assert batch.split is None


def test_a_share_of_the_test_images_is_found_in_the_files(tmp_path: Path, world: World, split: Split) -> None:
    pixels = write_published(tmp_path, split)
    rest = open_data(DataConfig(path=str(world.images), test_calibration_fraction=0.5), 0).splits["test"]
    assert 0 < len(rest) < len(split)
    (batch,) = published_stores(tmp_path, "fog", rest)[0].batches([torch.arange(len(rest))])
    assert rest.origin_N is not None
    expected = (pixels[rest.origin_N.numpy()].astype(int) - 10).clip(0, 255)
    assert np.array_equal(batch.pixels_BHWC.numpy(), expected)


def test_files_of_another_kind_are_named(tmp_path: Path, split: Split) -> None:
    def messages(name: str = "fog") -> str:
        error = refusal(published_stores, tmp_path, name, split)
        assert isinstance(error, DataError)
        return str(error)

    write_published(tmp_path, split)
    assert "snow.npy does not exist" in messages("snow")
    good = np.load(tmp_path / "fog.npy")
    np.save(tmp_path / "fog.npy", good[:-1])
    assert "fog.npy must hold five severities of 12 RGB images" in messages()
    np.save(tmp_path / "fog.npy", good.astype(np.float32))
    assert "float32" in messages()
    (tmp_path / "fog.npy").write_bytes(b"no array at all")
    assert "fog.npy cannot be read" in messages()
    np.save(tmp_path / "labels.npy", np.roll(split.labels_N.numpy(), 1))
    assert "in their order" in messages()
    np.save(tmp_path / "labels.npy", split.labels_N.numpy()[:5])
    assert "5 labels" in messages()


class Bomb:
    """Creates a file when a pickle of it is opened."""

    def __init__(self, file: str) -> None:
        self.file = file

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return open, (self.file, "w")


def test_a_pickle_inside_is_refused_and_not_run(tmp_path: Path, split: Split) -> None:
    write_published(tmp_path, split)
    trace = tmp_path / "trace"
    np.save(tmp_path / "fog.npy", np.array([Bomb(str(trace))], dtype=object), allow_pickle=True)
    assert "plain array" in str(refusal(published_stores, tmp_path, "fog", split))
    assert not trace.exists()
