"""The framing inside of a graph is that of Pillow, for all filters and shapes of pictures."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from richkd.data.framing import RESAMPLING, Framing, frame
from richkd.export.framing_graph import FILTERS, FramingGraph

sides = st.integers(1, 120)
framings = st.builds(
    Framing,
    st.integers(4, 48),
    st.sampled_from([1.0, 0.95, 0.875, 0.5, 0.3]),
    st.sampled_from(sorted(FILTERS)),
    st.booleans(),
)


def noise(height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def difference(
    pixels_HWC: NDArray[np.uint8], framing: Framing, graph: FramingGraph | None = None
) -> NDArray[np.int64]:
    """Framed by the graph minus framed by Pillow."""
    ours_3SS = (graph or FramingGraph(framing))(torch.from_numpy(pixels_HWC.copy())[None])[0]
    pillow_SSC = np.asarray(frame(Image.fromarray(pixels_HWC), framing)).astype(np.int64)
    assert ours_3SS.dtype == torch.float32
    return ours_3SS.permute(1, 2, 0).numpy().astype(np.int64) - pillow_SSC


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(sides, sides, framings)
@example(1, 9000, Framing(16))  # the far ends are cut off
@example(2, 9001, Framing(17, 0.875, "bilinear"))
@example(30, 30, Framing(30))
@example(31, 44, Framing(30))  # an odd excess of 12.5 pixels
@example(1, 1, Framing(8))
@example(480, 640, Framing(64, 1.0, "box"))
@example(640, 480, Framing(224, 0.875, "bilinear"))
@example(101, 50, Framing(20))  # columns are resized first
def test_pixels_are_those_of_pillow(height: int, width: int, framing: Framing) -> None:
    assert np.array_equal(difference(noise(height, width), framing), np.zeros((framing.size,) * 2 + (3,)))


def test_without_a_branch_few_values_of_a_high_photo_differ() -> None:
    coarse = Image.fromarray(noise(24, 8))
    photo = np.asarray(coarse.resize((200, 600), Image.Resampling.BICUBIC))
    graph = FramingGraph(Framing(64))
    graph.branches = False
    differences = np.abs(difference(photo, Framing(64), graph))
    assert differences.max() <= 2
    assert differences.mean() < 0.1
    assert np.array_equal(difference(photo, Framing(64)), np.zeros_like(differences))


def test_nearest_pixels_are_those_of_pillow() -> None:
    for framing in (Framing(64, 1.0, "nearest"), Framing(61, 0.875, "nearest")):
        assert difference(noise(480, 643), framing).any() == np.False_


def test_every_filter_of_pillow_is_implemented() -> None:
    assert {*FILTERS, "nearest"} == set(RESAMPLING)


@pytest.mark.slow
def test_a_batch_is_framed_like_its_pictures() -> None:
    batch_BHWC = torch.from_numpy(np.stack([noise(20, 31, seed) for seed in range(3)]))
    graph = FramingGraph(Framing(12, 0.875))
    assert torch.equal(graph(batch_BHWC), torch.cat([graph(one[None]) for one in batch_BHWC]))
