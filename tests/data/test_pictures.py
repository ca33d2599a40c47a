"""Views of whole pictures, compared with PIL and torchvision on the original picture."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import InterpolationMode
from torchvision.transforms.functional import resized_crop

from richkd.core.errors import DataError
from richkd.core.types import Batch
from richkd.data.augmentations import RandomResizedCrop
from richkd.data.pictures import Pictures, resize_crop, shrink
from richkd.data.split import Split
from richkd.data.views import render_batch

SIZES = (24, 40)
NONE, ONE = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)


def smooth(height: int, width: int, seed: int) -> Image.Image:
    """A picture without detail, so that ways of resizing differ little."""
    small = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


def split_of(pictures: list[Image.Image], format: str = "PNG") -> Split:
    cells = []
    for picture in pictures:
        file = io.BytesIO()
        picture.save(file, format, quality=95)
        cells.append({"bytes": file.getvalue(), "path": None})
    features = datasets.Features({"image": datasets.Image(decode=False)})
    rows = datasets.Dataset.from_dict({"image": cells}, features=features)
    return Split("train", rows, torch.zeros(len(cells), dtype=torch.int64), ("a",), "image", None)


def read(pictures: Pictures, policy: RandomResizedCrop, groups: list[torch.Tensor]) -> list[Batch]:
    return list(pictures.batches(groups, [policy.draw(3, 1, index_B) for index_B in groups]))


@pytest.fixture(scope="module")
def split() -> Split:
    return split_of([smooth(60 + 9 * i, 130 - 11 * i, seed=i) for i in range(7)])


GROUPS = [torch.tensor([2, 0, 5]), torch.tensor([6, 1]), torch.tensor([3, 4])]


def test_every_network_sees_the_same_crop_of_the_original_picture(split: Split) -> None:
    policy = RandomResizedCrop(scale=(0.2, 0.9))
    batches = read(Pictures(split, 1000, SIZES, workers=0), policy, GROUPS)
    for index_B, batch in zip(GROUPS, batches, strict=True):
        views = policy.draw(3, 1, index_B)
        assert views.key_B is not None
        for place, (index, key) in enumerate(zip(index_B.tolist(), views.key_B.tolist(), strict=True)):
            picture = split.read(index)
            top, left, height, width = policy.box(key, picture.height, picture.width)
            for size in SIZES:
                expected = resized_crop(
                    picture, top, left, height, width, [size, size], InterpolationMode.BILINEAR
                )
                if views.flip_B[place]:
                    expected = expected.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
                rendered = render_batch(batch, views, size, NONE, ONE)[place].permute(1, 2, 0) * 255
                # Both round to 8 bits after each of two passes.
                assert np.abs(rendered.numpy() - np.asarray(expected).astype(float)).max() < 1.6


def test_batches_do_not_depend_on_workers_and_memory(split: Split) -> None:
    policy = RandomResizedCrop()
    expected = read(Pictures(split, 50, SIZES, workers=0), policy, GROUPS)
    for in_memory in (False, True):
        for workers in (0, 2):
            batches = read(Pictures(split, 50, SIZES, workers, in_memory), policy, GROUPS)
            for ours, theirs in zip(batches, expected, strict=True):
                assert torch.equal(ours.index_B, theirs.index_B)
                assert ours.crops.keys() == theirs.crops.keys() == set(SIZES)
                for size in SIZES:
                    assert torch.equal(ours.crops[size], theirs.crops[size])


def test_only_the_wanted_sizes_are_rendered(split: Split) -> None:
    policy = RandomResizedCrop()
    views = [policy.draw(0, 0, index_B) for index_B in GROUPS]
    wanted = [(24,), (24, 40), (40,)]
    batches = Pictures(split, 50, SIZES, workers=0).batches(GROUPS, views, wanted)
    assert [tuple(batch.crops) for batch in batches] == wanted


def test_a_jpeg_is_decoded_at_reduced_size_only_where_the_source_is_not_enlarged() -> None:
    picture = smooth(800, 1200, seed=1)
    split = split_of([picture], "JPEG")
    for short in (90, 100, 150, 400, 799, 2000):
        pictures = Pictures(split, short, (8,), workers=0, in_memory=True)
        (pixels_HWC,) = pictures._decoded.values()
        expected = shrink(picture, short)
        assert pixels_HWC.shape == (expected.height, expected.width, 3)
        assert np.abs(pixels_HWC.numpy().astype(int) - np.asarray(expected).astype(int)).max() < 16
    # Sizes are those of the original picture, so crops do not depend on reduced decoding.
    assert min(pixels_HWC.shape[:2]) == 800


def test_a_mirrored_view_is_the_mirrored_crop(split: Split) -> None:
    policy = RandomResizedCrop()
    index_B = torch.arange(7)
    views = policy.draw(0, 0, index_B)
    (batch,) = Pictures(split, 50, (24,), workers=0).batches([index_B], [views])
    plain = replace(views, flip_B=torch.zeros(7, dtype=torch.bool))
    (unmirrored,) = Pictures(split, 50, (24,), workers=0).batches([index_B], [plain])
    assert 0 < int(views.flip_B.sum()) < 7
    for place, flip in enumerate(views.flip_B.tolist()):
        crop_HW3 = unmirrored.crops[24][place]
        assert torch.equal(batch.crops[24][place], crop_HW3.flip(1) if flip else crop_HW3)


def test_crops_are_normalized_for_a_network(split: Split) -> None:
    index_B = torch.arange(7)
    for color in (0.0, 0.3):
        views = RandomResizedCrop(color=color).draw(0, 0, index_B)
        (batch,) = Pictures(split, 50, (24,), workers=0).batches([index_B], [views])
        mean, std = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)
        rendered = render_batch(batch, views, 24, mean, std)
        assert rendered.is_contiguous(memory_format=torch.channels_last)
        if not color:
            expected = (batch.crops[24].double() / 255 - torch.tensor(mean)) / torch.tensor(std)
            assert torch.allclose(rendered.double(), expected.permute(0, 3, 1, 2), atol=1e-6)
        else:
            factors = replace(views, color_B3=torch.ones(7, 3))
            assert not torch.allclose(rendered, render_batch(batch, factors, 24, mean, std), atol=0.01)


@pytest.mark.parametrize("workers", [0, 2])
def test_an_unreadable_picture_is_named(workers: int) -> None:
    good = split_of([smooth(9, 9, seed=0)] * 3)
    cells = [*good.table["image"][:2], {"bytes": b"no image", "path": None}]
    rows = datasets.Dataset.from_dict({"image": cells}, features=good.table.features)
    broken = Split("train", rows, good.labels_N, ("a",), "image", None)
    groups = [torch.tensor([0, 1]), torch.tensor([2, 0])]
    with pytest.raises(DataError, match=r"Image train\[2\] must be readable") as caught:
        read(Pictures(broken, 50, (8,), workers), RandomResizedCrop(), groups)
    assert "Traceback" not in str(caught.value)
    with pytest.raises(DataError, match=r"1 of 3 images are not"):
        Pictures(broken, 50, (8,), workers, in_memory=True)


def test_a_crop_of_the_right_size_is_copied() -> None:
    crop_HWC = torch.randint(256, (8, 8, 3), dtype=torch.uint8)
    assert torch.equal(resize_crop(crop_HWC, 8), crop_HWC)


@pytest.mark.slow
def test_the_fingerprint_depends_on_files_and_resolution(tmp_path: Path) -> None:
    one, other = (split_of([smooth(9, 9, seed)]) for seed in (0, 1))
    prints = [Pictures(s, short, (8,), 0).fingerprint() for s, short in ((one, 9), (other, 9), (one, 8))]
    assert len(set(prints)) == 3
    assert Pictures(one, 9, (16, 8), 0, in_memory=True).fingerprint() == prints[0]
