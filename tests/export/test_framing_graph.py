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

# A pixel on the edge of a box belongs to either side, which depends on the rounding of Pillow.
SMOOTH = set(FILTERS) - {"box"}
sides = st.integers(1, 120)
framings = st.builds(
    Framing,
    st.integers(4, 48),
    st.sampled_from([1.0, 0.95, 0.875, 0.5, 0.3]),
    st.sampled_from(sorted(SMOOTH)),
    st.booleans(),
)


def noise(height: int, width: int, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def difference(pixels_HWC: NDArray[np.uint8], framing: Framing) -> NDArray[np.int64]:
    """Framed by the graph minus framed by Pillow."""
    ours_3SS = FramingGraph(framing)(torch.from_numpy(pixels_HWC.copy())[None])[0]
    pillow_SSC = np.asarray(frame(Image.fromarray(pixels_HWC), framing)).astype(np.int64)
    assert ours_3SS.dtype == torch.float32
    return ours_3SS.permute(1, 2, 0).numpy().astype(np.int64) - pillow_SSC


@settings(max_examples=150, deadline=None)
@given(sides, sides, framings)
@example(1, 9000, Framing(16))  # the far ends are cut off
@example(9001, 2, Framing(17, 0.875, "bilinear"))
@example(30, 30, Framing(30))
@example(31, 44, Framing(30))  # an odd excess of 12.5 pixels
@example(1, 1, Framing(8))
def test_it_is_pillows_up_to_rounding(height: int, width: int, framing: Framing) -> None:
    found = np.abs(difference(noise(height, width), framing))
    # If a picture is squashed more in height than in width, some versions of Pillow resize columns first.
    # Otherwise, only rounding differs, and a difference of the first pass can add to one of the second.
    assert found.max() <= (255 if framing.squash else 2)
    assert found.mean() <= (3 if framing.squash else 0.3)


@pytest.mark.parametrize(
    ("interpolation", "share"), [("bicubic", 1e-3), ("lanczos", 1e-3), ("bilinear", 1e-2)]
)
def test_few_values_of_a_photo_differ_by_one(interpolation: str, share: float) -> None:
    """Products of a bilinear filter are often exactly one half, which Pillow rounds to any side."""
    coarse = Image.fromarray(noise(48, 64))
    photo = np.asarray(coarse.resize((640, 480), Image.Resampling.BICUBIC))
    for framing in (Framing(224, 0.875, interpolation), Framing(64, 1.0, interpolation)):
        found = np.abs(difference(photo, framing))
        assert found.max() <= 1
        assert np.count_nonzero(found) < found.size * share


@pytest.mark.parametrize("interpolation", ["nearest", "box"])
def test_filters_with_edges_are_those_of_pillow(interpolation: str) -> None:
    for framing in (Framing(64, 1.0, interpolation), Framing(61, 0.875, interpolation)):
        found = np.abs(difference(noise(480, 643), framing))
        assert found.mean() <= (0 if interpolation == "nearest" else 0.2)


def test_every_filter_of_pillow_is_implemented() -> None:
    assert {*FILTERS, "nearest"} == set(RESAMPLING)


def test_a_batch_is_framed_like_its_pictures() -> None:
    batch_BHWC = torch.from_numpy(np.stack([noise(20, 31, seed) for seed in range(3)]))
    graph = FramingGraph(Framing(12, 0.875))
    assert torch.equal(graph(batch_BHWC), torch.cat([graph(one[None]) for one in batch_BHWC]))
