"""Boxes of CutMix against timm's, their pixels one by one, and their distribution."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from timm.data import mixup as timm_mixup

from richkd.data.cutmix import Box, box_around, draw_box

boxes = st.builds(
    box_around,
    st.just(7),
    st.just(10),
    st.floats(0, 1),
    st.integers(0, 6),
    st.integers(0, 9),
)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 12), st.integers(1, 12), st.floats(0, 1))
def test_a_box_around_any_pixel_is_timms(height: int, width: int, kept: float) -> None:
    for row in range(height):
        for column in range(width):
            center = iter((row, column))
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(np.random, "randint", lambda *args, center=center, **kwargs: next(center))
                expected = timm_mixup.rand_bbox((3, height, width), kept)
            box = box_around(height, width, kept, row, column)
            assert (box.top, box.bottom, box.left, box.right) == tuple(int(x) for x in expected)


def test_boxes_are_distributed_as_timms() -> None:
    random, count = np.random.default_rng(0), 20_000
    state = np.random.get_state()  # noqa: NPY002
    np.random.seed(1)  # noqa: NPY002
    try:
        expected = [
            timm_mixup.rand_bbox((3, 32, 24), kept) for kept in random.beta(0.6, 0.6, size=count).tolist()
        ]
    finally:
        np.random.set_state(state)  # noqa: NPY002
    drawn = [draw_box(0.6, 32, 24, random) for _ in range(count)]
    for figure in (
        lambda top, bottom, left, right: (bottom - top) * (right - left),
        lambda top, bottom, left, right: top + bottom,
        lambda top, bottom, left, right: left + right,
    ):
        ours = [figure(box.top, box.bottom, box.left, box.right) for box in drawn]
        assert stats.ks_2samp(ours, [figure(*box) for box in expected]).pvalue > 1e-3
    # The test sees a difference of such a size.
    areas = [box.inside for box in drawn]
    assert stats.ks_2samp(areas, [draw_box(0.7, 32, 24, random).inside for _ in drawn]).pvalue < 1e-3


@settings(max_examples=60, deadline=None)
@given(boxes)
def test_pixels_and_share_are_those_of_a_loop(box: Box) -> None:
    first_B3HW, second_B3HW = torch.ones(2, 3, 7, 10), torch.zeros(2, 3, 7, 10)
    mixed_B3HW = box.pixels(first_B3HW, second_B3HW)
    in_box = [
        (row, column)
        for row in range(7)
        for column in range(10)
        if box.top <= row < box.bottom and box.left <= column < box.right
    ]
    assert box.inside == len(in_box) / 70
    # The larger part is the first image's.
    first_in_box = len(in_box) > 35
    for row in range(7):
        for column in range(10):
            is_first = first_in_box == ((row, column) in in_box)
            assert bool((mixed_B3HW[..., row, column] == float(is_first)).all())
    assert box.share == pytest.approx(mixed_B3HW.double().mean().item(), abs=1e-12)
    assert box.share >= 0.5
    assert bool((first_B3HW == 1).all())
    assert bool((second_B3HW == 0).all())


@settings(max_examples=40, deadline=None)
@given(boxes, st.permutations(range(5)))
def test_a_batch_has_the_images_of_the_published_rule_with_the_inverse_permutation(
    box: Box, partners: list[int]
) -> None:
    """The published rule keeps the first image around the box, however large the box is."""
    pixels_B3HW = torch.randn(5, 3, 7, 10)
    partner_B = torch.tensor(partners)
    mixed_B3HW = box.pixels(pixels_B3HW, pixels_B3HW[partner_B])
    published_B = partner_B if box.inside <= 0.5 else partner_B.argsort()
    rows, columns = slice(box.top, box.bottom), slice(box.left, box.right)
    published_B3HW = pixels_B3HW.clone()
    published_B3HW[..., rows, columns] = pixels_B3HW[published_B][..., rows, columns]
    order_B = torch.arange(5) if box.inside <= 0.5 else partner_B
    assert torch.equal(mixed_B3HW, published_B3HW[order_B])


def test_the_memory_format_stays() -> None:
    first_B3HW = torch.randn(2, 3, 4, 4).contiguous(memory_format=torch.channels_last)
    for rows in (1, 4):
        box = Box(0, rows, 0, 4, height=4, width=4)
        mixed_B3HW = box.pixels(first_B3HW, first_B3HW[torch.tensor([1, 0])])
        assert mixed_B3HW.is_contiguous(memory_format=torch.channels_last)
