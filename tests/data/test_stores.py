"""The resolution of a run's source images, and who sees which of them."""

from __future__ import annotations

import io
import math

import datasets
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from richkd.config.schema import AugmentConfig, DataConfig
from richkd.data.augmentations import CropFlip, RandomResizedCrop
from richkd.data.batches import Resident, Streamed
from richkd.data.framing import Framing, frame
from richkd.data.pictures import Pictures
from richkd.data.split import Split
from richkd.data.stores import open_stores, picture_sizes, source_short

STUDENT = Framing(16)


def split_of(sides: list[tuple[int, int]], name: str = "train") -> Split:
    cells = []
    for seed, (width, height) in enumerate(sides):
        file = io.BytesIO()
        pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(file, "PNG")
        cells.append({"bytes": file.getvalue(), "path": None})
    features = datasets.Features({"image": datasets.Image(decode=False)})
    rows = datasets.Dataset.from_dict({"image": cells}, features=features)
    return Split(name, rows, torch.zeros(len(cells), dtype=torch.int64), ("a",), "image", None)


SPLITS = {"train": split_of([(50, 40)] * 4), "val": split_of([(40, 60)] * 3, "val")}


@pytest.mark.parametrize(
    ("side", "teachers", "given", "expected"),
    [
        (40, [], None, 16),  # the student alone
        (40, [8], None, 16),
        (40, [32], None, 32),  # the largest network
        (40, [32, 64], None, 40),  # up to the pictures themselves
        (12, [224], None, 16),  # but at least the student's input
        (16, [224], None, 16),  # thumbnails are not enlarged for a CLIP
        (40, [32], 20, 20),  # a setting wins
    ],
)
def test_square_sources_are_as_large_as_the_largest_network_needs(
    side: int, teachers: list[int], given: int | None, expected: int
) -> None:
    data = DataConfig(path="x", size=given)
    splits = {"train": split_of([(side, side + 9)] * 4)}
    stores, augmentation = open_stores(splits, data, AugmentConfig(), STUDENT, teachers, workers=0)
    assert isinstance(stores.training, Resident)
    assert stores.training.size == expected
    assert augmentation == CropFlip(expected, expected // 8)


@given(st.lists(st.integers(4, 512), min_size=1, max_size=4), st.floats(0.01, 1))
def test_no_crop_of_a_square_source_is_smaller_than_a_networks_input(sizes: list[int], share: float) -> None:
    short = source_short(sizes, share)
    assert short * math.sqrt(share) >= max(sizes) * (1 - 1e-12)
    assert (short - 1) * math.sqrt(share) < max(sizes)


def test_crops_come_from_pictures_that_are_large_enough() -> None:
    augment = AugmentConfig(policy="random-resized-crop", scale=(0.25, 1.0))
    splits = {"train": split_of([(50, 40), (300, 200), (60, 70), (40, 40)])}
    for teachers, short in (([], 32), ([64], 128), ([224], 200)):
        stores, augmentation = open_stores(
            splits, DataConfig(path="x"), augment, STUDENT, teachers, workers=0
        )
        assert isinstance(stores.training, Pictures)
        assert isinstance(augmentation, RandomResizedCrop)
        assert (stores.training.short, stores.training.in_memory) == (short, True)
        assert stores.training.sizes == (16, *teachers)
        assert stores.decoded("train")
    streamed, _ = open_stores(splits, DataConfig(path="x", in_memory_gb=0), augment, STUDENT, [], workers=0)
    assert not streamed.decoded("train")
    assert streamed.bytes == 0


def test_clean_images_are_decoded_for_each_network() -> None:
    stores, _ = open_stores(SPLITS, DataConfig(path="x"), AugmentConfig(), STUDENT, [32], workers=0)
    assert stores.names == ("train", "val")
    for split in stores.names:
        for framing in (STUDENT, Framing(32, 0.875, "bilinear"), Framing(24, squash=True)):
            store = stores.clean(split, framing)
            assert stores.clean(split, framing) is store
            (batch,) = store.batches([torch.tensor([1])])
            expected = np.asarray(frame(SPLITS[split].read(1), framing))
            assert np.array_equal(batch.pixels_BHWC[0].numpy(), expected)
            assert store.clean.size == framing.size
    assert stores.clean("val") is stores.clean("val", STUDENT)
    assert isinstance(stores.clean("val"), Resident)
    assert isinstance(stores.clean("val", Framing(8)), Streamed)


def test_the_sizes_of_pictures_are_read_from_their_headers() -> None:
    assert picture_sizes(split_of([(5, 4), (3, 9), (8, 8)]), most=2) == [(5, 4), (8, 8)]
    broken = datasets.Dataset.from_dict({"image": [{"bytes": b"no image", "path": None}]})
    assert picture_sizes(Split("train", broken, torch.tensor([0]), ("a",), "image", None)) == []
