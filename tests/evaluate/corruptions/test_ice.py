"""The texture of frost has the gray levels of the published photographs."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from richkd.evaluate.corruptions.draws import Draws
from richkd.evaluate.corruptions.ice import FILES, texture

# Mean red, green and blue over random crops of 224 pixels of the five files.
MEANS = (
    (76.6, 147.7, 164.3),
    (197.6, 202.0, 211.2),
    (197.9, 202.2, 211.5),
    (144.2, 159.0, 171.9),
    (101.0, 112.4, 124.3),
)


@pytest.fixture(scope="module")
def means() -> np.ndarray:
    """Mean colors (N, 3) of the textures of many images."""
    draws = Draws(tuple(range(0, 3000, 3)), torch.device("cpu"))
    return (texture(draws, 32, 24).mean(dim=(2, 3)) * 255).numpy()


def test_the_mean_colors_are_those_of_the_photographs(means: np.ndarray) -> None:
    away = abs(means[:, None] - np.array(MEANS)).max(axis=2)
    assert away.min(axis=1).max() < 3


def test_files_are_drawn_with_equal_probability(means: np.ndarray) -> None:
    nearest = abs(means[:, None] - np.array(MEANS)).sum(axis=2).argmin(axis=1)
    # The second and the third file show the same picture.
    counts = np.bincount(nearest, minlength=5)
    expected = np.array([200, 400, 200, 200])
    deviation = (expected * (1 - expected / 1000)) ** 0.5
    assert len(FILES) == 5
    assert (abs(np.array([counts[0], counts[1] + counts[2], *counts[3:]]) - expected) < 4 * deviation).all()


def test_the_texture_is_bright_in_lines_and_not_in_single_pixels() -> None:
    ice = texture(Draws((1, 2, 3, 4), torch.device("cpu")), 64, 64)
    difference = (ice[..., 1:] - ice[..., :-1]).square().mean()
    assert float(difference) < float(ice.var(dim=(2, 3)).mean())
