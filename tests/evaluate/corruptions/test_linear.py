"""The matrices of separable filters against SciPy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from richkd.evaluate.corruptions.linear import gaussian_matrix


@settings(max_examples=100, deadline=None)
@given(st.integers(1, 40), st.floats(0.05, 60), st.sampled_from([3.0, 4.0]), st.booleans())
def test_a_gaussian_is_that_of_scipy(size: int, sigma: float, truncate: float, mirrored: bool) -> None:
    mode = "reflect" if mirrored else "nearest"
    theirs = ndimage.gaussian_filter1d(np.eye(size), sigma, axis=0, mode=mode, truncate=truncate)
    ours = gaussian_matrix(size, sigma, truncate, mirrored_edges=mirrored).numpy()
    assert ours == pytest.approx(theirs, abs=1e-6)


def test_a_gaussian_longer_than_the_image_gives_its_mean() -> None:
    # Smoothness and strength of the published displacement at severity 1 and 224 pixels.
    matrix = gaussian_matrix(224, 170.8, 3.0, mirrored_edges=True).double()
    noise = 3**-0.5
    displacement = 488 * noise * float(matrix.square().sum()) / 224
    assert displacement == pytest.approx(488 * noise / 224, rel=0.02)
    repeated = gaussian_matrix(224, 170.8, 3.0).double()
    assert 488 * noise * float(repeated.square().sum()) / 224 > 30
