"""Batches of square source pixels: all stores return the same."""

from __future__ import annotations

import io

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

from richkd.core.errors import DataError
from richkd.core.types import Batch
from richkd.data.batches import BYTES_PER_GB, CleanStore, Resident, Streamed, open_store
from richkd.data.framing import Framing, frame
from richkd.data.order import TrainingOrder, in_order
from richkd.data.split import Split

IMAGES, SIZE = 11, 8
FRAMING = Framing(SIZE)


def png(pixels_HWC: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels_HWC).save(buffer, "PNG")
    return buffer.getvalue()


def make_split(files: list[bytes]) -> Split:
    rows = datasets.Dataset.from_dict(
        {"image": [{"bytes": data, "path": None} for data in files]},
        features=datasets.Features({"image": datasets.Image(decode=False)}),
    )
    return Split("train", rows, torch.arange(len(files)) % 3, ("a", "b", "c"), "image", None)


@pytest.fixture(scope="module")
def split() -> Split:
    """Images of eleven shapes, so that every one is resized and cropped."""
    rng = np.random.default_rng(0)
    return make_split([png(rng.integers(0, 256, (9 + i, 20 - i, 3), dtype=np.uint8)) for i in range(IMAGES)])


def walked(store: CleanStore, groups: list[torch.Tensor]) -> list[Batch]:
    return list(store.batches(groups))


def test_stores_agree_whatever_the_number_of_workers(split: Split) -> None:
    groups = [*TrainingOrder(IMAGES, 4, 0).epoch(0), *in_order(IMAGES, 5), torch.tensor([3])]
    resident = open_store(split, FRAMING, workers=1)
    assert isinstance(resident, Resident)
    expected = walked(resident, groups)
    for group, batch in zip(groups, expected, strict=True):
        assert batch.split == "train"
        assert torch.equal(batch.index_B, group)
        assert torch.equal(batch.labels_B, group % 3)
        for index, pixels_HWC in zip(group.tolist(), batch.pixels_BHWC, strict=True):
            assert (pixels_HWC.numpy() == np.asarray(frame(split.read(index), FRAMING))).all()
    for workers in (0, 2):
        streamed = open_store(split, FRAMING, in_memory_gb=0, workers=workers)
        assert streamed == Streamed(split, FRAMING, workers)
        for ours, theirs in zip(walked(streamed, groups), expected, strict=True):
            assert ours.pixels_BHWC.dtype == theirs.pixels_BHWC.dtype == torch.uint8
            assert torch.equal(ours.pixels_BHWC, theirs.pixels_BHWC)
            assert torch.equal(ours.index_B, theirs.index_B)
            assert torch.equal(ours.labels_B, theirs.labels_B)


def test_the_memory_limit_selects_the_store(split: Split) -> None:
    exact = IMAGES * SIZE * SIZE * 3 / BYTES_PER_GB
    assert isinstance(open_store(split, FRAMING, in_memory_gb=exact), Resident)
    assert isinstance(open_store(split, FRAMING, in_memory_gb=exact * 0.99), Streamed)


@pytest.mark.parametrize("workers", [0, 2])
def test_an_unreadable_image_is_named_when_it_is_streamed(workers: int) -> None:
    good = png(np.zeros((8, 8, 3), dtype=np.uint8))
    store = Streamed(make_split([good, good, b"no image"]), FRAMING, workers)
    with pytest.raises(DataError) as caught:
        walked(store, in_order(3, 2))
    assert caught.value.rule == "Image train[2] must be readable"
    assert "Traceback" not in str(caught.value)


def test_all_unreadable_images_are_named_before_training() -> None:
    good = png(np.zeros((8, 8, 3), dtype=np.uint8))
    with pytest.raises(DataError, match=r"2 of 3(.|\n)*train\[0\](.|\n)*train\[2\]"):
        open_store(make_split([b"no image", good, b""]), FRAMING)


@pytest.mark.parametrize("in_memory_gb", [0.0, 1.0])
def test_only_training_images_are_decoded_at_reduced_size(in_memory_gb: float) -> None:
    rng = np.random.default_rng(0)
    small = Image.fromarray(rng.integers(0, 256, (9, 12, 3), dtype=np.uint8))
    picture, file = small.resize((160, 120), Image.Resampling.BICUBIC), io.BytesIO()
    picture.save(file, "JPEG", quality=95)
    split = make_split([file.getvalue()])
    stores = [
        open_store(split, FRAMING, in_memory_gb=in_memory_gb, workers=0, training=training)
        for training in (False, True)
    ]
    evaluated, trained = (walked(store, [torch.tensor([0])])[0].pixels_BHWC.int() for store in stores)
    assert np.array_equal(evaluated[0], np.asarray(frame(split.read(0), FRAMING)))
    assert 0 < int((evaluated - trained).abs().max()) < 24
    assert stores[0].fingerprint() != stores[1].fingerprint()
