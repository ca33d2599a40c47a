"""A texture of ice for frost, with the gray levels of the photographs that the published code adds.

The photographs are not part of this package. How much frost changes images on average depends only on how
often each value occurs in the photographs, so the texture has the same frequencies. `LEVELS` was measured on
random crops of 224 pixels of the photographs of Hendrycks and Dietterich, as they are in the package
imagecorruptions 1.1.2. Crops of 32 pixels of the photographs at a fifth of their size have nearly the same
values (within 6 levels, except for the darkest ones). The shapes are ours: ridges of a fractal.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from richkd.evaluate.corruptions.draws import Draws
from richkd.evaluate.corruptions.fractal import fractal

# Decay of the fractal from level to level.
DECAY = 1.8
# Shares of pixels, and the levels of red, green and blue below which these shares of the photographs lie.
SHARES = (0, 0.02, 0.1, 0.5, 0.9, 0.98, 1)
LEVELS = (
    (
        (15, 33, 44, 72, 117, 145, 201),
        (99, 119, 127, 146, 170, 184, 230),
        (115, 137, 145, 164, 184, 195, 235),
    ),
    (
        (55, 146, 171, 201, 220, 229, 252),
        (56, 148, 174, 206, 226, 234, 255),
        (60, 155, 182, 215, 236, 244, 255),
    ),
    (
        (15, 84, 112, 146, 175, 201, 251),
        (24, 99, 127, 161, 190, 216, 255),
        (31, 109, 138, 174, 205, 233, 255),
    ),
    ((14, 38, 55, 97, 153, 194, 255), (25, 49, 67, 109, 164, 203, 255), (36, 61, 80, 121, 174, 211, 255)),
)
# The published code draws from five files with equal probability. Two of them show the same picture. It never
# draws the sixth.
FILES = (0, 1, 1, 2, 3)


def texture(draws: Draws, height: int, width: int) -> Tensor:
    """A texture (B, 3, H, W) in 0..1 with the gray levels of one photograph, drawn for each image.

    The texture is bright where one of two fractals is near 0.5. Its pixels in rising order get the gray
    levels of the photograph in rising order, so every texture has the frequencies of the whole photograph.

    Example:
        >>> ice = texture(Draws((1, 2), torch.device("cpu")), height=16, width=12)
        >>> list(ice.shape), bool((ice.amin(dim=(2, 3)) < ice.amax(dim=(2, 3))).all())
        ([2, 3, 16, 12], True)
    """
    maps = [fractal(draws, max(height, width), DECAY, number)[:, 0, :height, :width] for number in range(2)]
    near_BHW = torch.minimum(*((2 * map_BHW - 1).abs() for map_BHW in maps))
    rising_BP = (-near_BHW).flatten(1).argsort(dim=1, stable=True)
    file_B = (draws.uniform((), number=2) * len(FILES)).long()
    levels_B3P = _levels(height * width).to(file_B.device)[file_B]
    places_B3P = rising_BP[:, None].expand_as(levels_B3P)
    texture_B3P = torch.empty_like(levels_B3P).scatter_(2, places_B3P, levels_B3P)
    return texture_B3P.view(-1, 3, height, width)


@lru_cache(maxsize=4)
def _levels(pixels: int) -> Tensor:
    """The values (files, 3, P) in 0..1 of as many pixels in rising order, interpolated linearly."""
    shares_K = torch.tensor(SHARES)
    ranks_P = (torch.arange(pixels) + 0.5) / pixels
    above_P = torch.searchsorted(shares_K, ranks_P).clamp(min=1)
    below_P = above_P - 1
    weight_P = (ranks_P - shares_K[below_P]) / (shares_K[above_P] - shares_K[below_P])
    known_F3K = torch.tensor([LEVELS[number] for number in FILES]) / 255
    return torch.lerp(known_F3K[..., below_P], known_F3K[..., above_P], weight_P)
