"""Random erasing: the distribution of timm's, and the same boxes and filling at all sizes."""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from timm.data.random_erasing import RandomErasing
from torch import Tensor
from torch.nn import functional

from richkd.core.seeds import mix_seed
from richkd.data.erasing import CELLS, ErasedBox, Fill, draw_boxes, erase, reduce_noise

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
FILLS: tuple[Fill, ...] = ("const", "rand", "pixel")
VIEWS = 4000
SIDE = 256
seeds = st.integers(0, 2**63 - 1)


def timms(count: int, probability: float = 1.0) -> list[Tensor]:
    """Masks of what timm erases from many images."""
    erasing = RandomErasing(probability, max_count=count, device="cpu")
    state = random.getstate()
    random.seed(0)
    try:
        return [erasing(torch.ones(1, SIDE, SIDE))[0] == 0 for _ in range(VIEWS)]
    finally:
        random.setstate(state)


def ours(count: int, probability: float = 1.0) -> list[Tensor]:
    """Masks of what is erased from the same number of views."""
    masks = []
    for seed in range(VIEWS):
        mask = torch.zeros(SIDE, SIDE, dtype=torch.bool)
        for box in draw_boxes(probability, count, seed):
            mask[box.pixels(SIDE)] = True
        masks.append(mask)
    return masks


def extent(mask: Tensor) -> tuple[int, int, int, int]:
    """Top, left, height and width of what is erased."""
    rows, columns = mask.any(dim=1).nonzero(), mask.any(dim=0).nonzero()
    top, left = int(rows.min()), int(columns.min())
    return top, left, int(rows.max()) + 1 - top, int(columns.max()) + 1 - left


FIGURES: dict[str, Callable[[int, int, int, int], float]] = {
    "area": lambda top, left, height, width: height * width,
    "aspect": lambda top, left, height, width: height / width,
    "row": lambda top, left, height, width: top + height / 2,
    "column": lambda top, left, height, width: left + width / 2,
    "top": lambda top, left, height, width: top,
}


def test_boxes_are_distributed_as_timms() -> None:
    our_boxes, their_boxes = ([extent(mask) for mask in masks(1)] for masks in (ours, timms))
    for name, figure in FIGURES.items():
        pair = [[figure(*box) for box in boxes] for boxes in (our_boxes, their_boxes)]
        assert stats.ks_2samp(*pair).pvalue > 1e-3, name
    # The test sees a difference of such a size.
    areas = np.array([box[2] * box[3] for box in our_boxes])
    assert stats.ks_2samp(areas, areas * 1.1).pvalue < 1e-3


def test_the_erased_area_of_several_boxes_is_distributed_as_timms() -> None:
    pair = [[float(mask.float().mean()) for mask in masks(3)] for masks in (ours, timms)]
    assert stats.ks_2samp(*pair).pvalue > 1e-3
    assert np.mean(pair[0]) == pytest.approx(np.mean(pair[1]), abs=0.006)
    numbers = [len(draw_boxes(1.0, 3, seed)) for seed in range(VIEWS)]
    assert stats.chisquare(np.bincount(numbers, minlength=4)[1:]).pvalue > 1e-3


@pytest.mark.parametrize("probability", [0.0, 0.25, 1.0])
def test_as_many_views_are_erased_as_the_setting_says(probability: float) -> None:
    erased = [bool(draw_boxes(probability, 1, seed)) for seed in range(10_000)]
    # The standard deviation is 0.0043.
    assert np.mean(erased) == pytest.approx(probability, abs=0.015)


@settings(max_examples=60, deadline=None)
@given(seeds, st.sampled_from(FILLS), st.integers(1, 4), st.lists(st.integers(1, 70), min_size=1, max_size=3))
def test_a_crop_does_not_depend_on_other_sizes_and_is_not_changed(
    seed: int, fill: Fill, count: int, sizes: list[int]
) -> None:
    crops = {size: torch.full((size, size, 3), 255, dtype=torch.uint8) for size in sizes}
    erased = erase(crops, 1.0, fill, count, seed)
    boxes = erase(crops, 1.0, "const", count, seed)
    for size, crop_SS3 in crops.items():
        assert torch.equal(crop_SS3, torch.full_like(crop_SS3, 255))
        assert torch.equal(erased[size], erase({size: crop_SS3}, 1.0, fill, count, seed)[size])
        # Whatever the filling is, it is in the same place.
        assert (erased[size] == 255)[boxes[size] == 255].all()


@settings(max_examples=30, deadline=None)
@given(seeds)
def test_all_sizes_lose_the_same_region(seed: int) -> None:
    crops = {size: torch.full((size, size, 3), 255, dtype=torch.uint8) for size in (64, 192)}
    small, large = ((crop[..., 0] != 255) for crop in erase(crops, 1.0, "const", 1, seed).values())
    shares = functional.avg_pool2d(large[None, None].float(), 3)[0, 0]
    # Edges are rounded to whole pixels.
    assert ((shares > 0.9) <= small).float().mean() > 0.98
    assert (shares - small.float()).abs().max() <= 8 / 9
    assert abs(float(shares.mean() - small.float().mean())) < 0.02


def filled(fill: Fill, size: int, seed: int) -> Tensor:
    """The pixels of the only box, as rows."""
    crops = {size: torch.zeros(size, size, 3, dtype=torch.uint8)}
    (box,) = draw_boxes(1.0, 1, mix_seed(seed, "boxes"))
    return erase(crops, 1.0, fill, 1, seed)[size][box.pixels(size)].flatten(0, 1)


def test_the_constant_is_the_color_that_timm_has_for_the_mean() -> None:
    assert filled("const", 64, 3).unique(dim=0).tolist() == [[round(255 * value) for value in MEAN]]


@pytest.mark.slow
def test_a_box_has_one_random_color_that_all_sizes_have() -> None:
    colors = []
    for seed in range(1000):
        (small,), (large,) = (filled("rand", size, seed).unique(dim=0).tolist() for size in (48, 112))
        assert small == large
        colors.append(small)
    assert_as_normal(np.array(colors))


def test_boxes_of_one_view_have_fillings_of_their_own() -> None:
    crops = {64: torch.full((64, 64, 3), 255, dtype=torch.uint8)}
    # The first seed with two boxes that do not overlap.
    for seed in range(50):
        boxes = draw_boxes(1.0, 2, mix_seed(seed, "boxes"))
        if len(boxes) == 2 and boxes[0].top + boxes[0].height < boxes[1].top:
            break
    erased = erase(crops, 1.0, "rand", 2, seed)[64]
    colors = [erased[box.pixels(64)].flatten(0, 1).unique(dim=0).tolist() for box in boxes]
    assert [len(color) for color in colors] == [1, 1]
    assert colors[0] != colors[1]


@pytest.mark.parametrize("size", [32, 100, 224])
def test_noise_is_standard_normal_at_every_size(size: int) -> None:
    assert_as_normal(torch.cat([filled("pixel", size, seed) for seed in range(20)]).numpy())


def assert_as_normal(pixels_N3: np.ndarray) -> None:
    """Pixels are standard normal with the mean and deviation of ImageNet, rounded and clipped to 0..255."""
    normal = np.random.default_rng(0).standard_normal((100_000, 3))
    expected_N3 = ((normal * STD + MEAN) * 255).round().clip(0, 255)
    for channel in range(3):
        assert stats.ks_2samp(pixels_N3[:, channel], expected_N3[:, channel]).pvalue > 1e-3
    both = pixels_N3.astype(float), expected_N3
    assert np.corrcoef(both[0].T)[0, 1] == pytest.approx(0, abs=0.1)
    assert both[0].std(axis=0) == pytest.approx(both[1].std(axis=0), rel=0.06)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(-3, 12), min_size=2, max_size=6).map(sorted),
    st.lists(st.integers(-3, 12), min_size=2, max_size=6).map(sorted),
)
def test_reduced_noise_is_the_scaled_sum_of_cells(rows: list[int], columns: list[int]) -> None:
    noise_HW3 = np.random.default_rng(1).standard_normal((9, 8, 3), dtype=np.float32)
    reduced = reduce_noise(noise_HW3, np.array(rows), np.array(columns))
    assert reduced.shape == (len(rows) - 1, len(columns) - 1, 3)

    def covered(edges: list[int], place: int, length: int) -> slice:
        starts = [min(max(edge, 0), length - 1) for edge in edges[:-1]]
        end = [*starts, min(edges[-1], length)][place + 1]
        return slice(starts[place], max(end, starts[place] + 1))

    for o in range(len(rows) - 1):
        for p in range(len(columns) - 1):
            cells = noise_HW3[covered(rows, o, 9), covered(columns, p, 8)]
            expected = cells.sum(axis=(0, 1)) / np.sqrt(cells[..., 0].size)
            assert reduced[o, p] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
    ("small", "large", "least"), [(32, 256, 0.95), (64, 256, 0.95), (112, 224, 0.95), (128, 224, 0.6)]
)
def test_noise_has_the_same_pattern_at_two_sizes(small: int, large: int, least: float) -> None:
    crops = {size: torch.zeros(size, size, 3, dtype=torch.uint8) for size in (small, large)}
    for seed in range(10):
        erased = erase(crops, 1.0, "pixel", 1, seed).values()
        few, many = (crop_SS3[None, None, ..., 0].float() for crop_SS3 in erased)
        (box,) = draw_boxes(1.0, 1, mix_seed(seed, "boxes"))
        mask = torch.zeros(1, 1, large, large)
        mask[0, 0][box.pixels(large)] = 1
        # Without pixels at the edges, which are partly outside.
        inside = (functional.adaptive_avg_pool2d(mask, small) == 1) & (few > 0)
        pair = [pixels[inside] for pixels in (few, functional.adaptive_avg_pool2d(many, small))]
        # 1 but for clipping and for cells that belong to another pixel; 0 for other noise.
        assert torch.corrcoef(torch.stack(pair))[0, 1] > least


def test_an_image_that_is_larger_than_the_grid_is_filled() -> None:
    size = CELLS + 100
    crops = {size: torch.zeros(size, size, 3, dtype=torch.uint8)}
    pixels = erase(crops, 1.0, "pixel", 1, 5)[size]
    assert ErasedBox(0, 0, 1, 1).pixels(size) == (slice(0, size), slice(0, size))
    assert pixels.float().std() > 0
