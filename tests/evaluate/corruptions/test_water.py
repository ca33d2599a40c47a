"""Shading of water against a version for single pixels and against SciPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy import ndimage

from richkd.evaluate.corruptions.water import REACH, distances, edges, equalized, water
from tests.reference import water as slow


def liquid(size: int, sigma: float, seed: int) -> np.ndarray:
    """Drops in bytes."""
    noise = np.random.default_rng(seed).normal(0.65, 0.3, (size, size))
    smooth = ndimage.gaussian_filter(noise, sigma, mode="nearest")
    return np.floor(np.where(smooth < 0.68, 0, smooth).clip(0, 1) * 255)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 40), st.floats(0.3, 3), st.integers(0, 10**6))
# Levels whose place in the histogram is half a whole number.
@example(24, 2.5625, 18082)
@example(6, 1.75, 6)
def test_water_is_that_of_the_slow_version(size: int, sigma: float, seed: int) -> None:
    drops = liquid(size, sigma, seed)
    ours = torch.from_numpy(drops).float()[None, None]
    assert np.array_equal(edges(ours)[0, 0].numpy(), slow.edges(drops))
    assert water(ours / 255)[0, 0].numpy() == pytest.approx(slow.water(drops), abs=1e-5)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 60), st.integers(1, 60), st.floats(0, 0.2), st.integers(0, 10**6))
def test_distances_are_euclidean(height: int, width: int, share: float, seed: int) -> None:
    edge = np.random.default_rng(seed).random((height, width)) < share
    edge[0, 0] = True
    theirs = ndimage.distance_transform_edt(~edge).clip(0, REACH)
    assert distances(torch.from_numpy(edge)[None, None])[0, 0].numpy() == pytest.approx(theirs, rel=1e-5)


def test_without_edges_every_distance_is_the_largest() -> None:
    assert set(distances(torch.zeros(1, 1, 5, 5, dtype=torch.bool)).flatten().tolist()) == {float(REACH)}


def test_images_of_a_batch_are_equalized_separately() -> None:
    values = torch.tensor([[0.0, 0.0, 3.0, 20.0], [7.0, 7.0, 7.0, 7.0], [0.0, 1.0, 2.0, 3.0]]).view(
        3, 1, 2, 2
    )
    assert equalized(values).flatten(1).tolist() == [[0, 0, 128, 255], [7, 7, 7, 7], [0, 85, 170, 255]]


def test_an_image_without_drops_stays_dry() -> None:
    assert float(water(torch.zeros(1, 1, 8, 8)).max()) == 0
