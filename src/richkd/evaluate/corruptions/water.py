"""How drops of water are shaded: lit from one side, by the distance of each pixel from the rims of the drops.

The steps and constants are those of the published code, which composes them from operations of OpenCV on
bytes, except that distances are exact. Values are whole numbers in 0..255, held as float32, unless another
range is given.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from richkd.evaluate.corruptions.rounding import truncated

# Thresholds of the edge detection: edges are pixels above the higher one, and pixels above the lower one that
# are connected with them.
WEAK, STRONG = 50, 150
# Rims further away than this, in pixels, have no influence.
REACH = 20
# The light comes from the lower right.
LIGHT = ((-2, -1, 0), (-1, 1, 1), (0, 1, 2))
# Tangent of 22.5°, rounded like OpenCV does it.
TANGENT = 13573 / 32768


def water(liquid_B1HW: Tensor) -> Tensor:
    """Brightness of drops (B, 1, H, W) in 0..1, whose largest value is 1 in each image that has drops.

    ``liquid · relief``: the relief is made from the distance to the nearest rim of a drop, after equalization
    of its histogram, by differences along the direction of the light.

    Args:
        liquid_B1HW: thickness of the liquid in 0..1, and 0 where there is none.

    Example:
        >>> drop = torch.zeros(1, 1, 9, 9)
        >>> drop[..., 2:7, 2:7] = 0.8
        >>> shaded = water(drop)
        >>> float(shaded.max()), float(shaded[..., 0, 0])
        (1.0, 0.0)
    """
    thickness_B1HW = (truncated(liquid_B1HW) * 255).round()
    distance_B1HW = distances(edges(thickness_B1HW))
    # The small addition keeps the mean of equal whole numbers from being cut off below it.
    softened_B1HW = (_weighted(distance_B1HW, _MEAN) + 1e-4).floor()
    relief_B1HW = _weighted(equalized(softened_B1HW), LIGHT).clamp(0, 255)
    wet_B1HW = thickness_B1HW * _weighted(relief_B1HW, _MEAN).round()
    return wet_B1HW / wet_B1HW.amax(dim=(2, 3), keepdim=True).clamp(min=1)


def edges(values_B1HW: Tensor) -> Tensor:
    """Where the edges are, as booleans (B, 1, H, W).

    Canny, "A computational approach to edge detection", 1986, with the sum of absolute differences as the
    strength of an edge.

    Example:
        >>> step = torch.tensor([0.0, 0.0, 255.0, 255.0]).expand(1, 1, 4, 4)
        >>> edges(step)[0, 0, 1].tolist()
        [False, True, False, False]
    """
    padded_BCHW = functional.pad(values_B1HW, (1,) * 4, mode="replicate")
    sobel_33 = torch.tensor([(-1.0, 0.0, 1.0), (-2.0, 0.0, 2.0), (-1.0, 0.0, 1.0)], device=values_B1HW.device)
    right_B1HW = functional.conv2d(padded_BCHW, sobel_33[None, None])
    down_B1HW = functional.conv2d(padded_BCHW, sobel_33.T[None, None])
    strength_B1HW = right_B1HW.abs() + down_B1HW.abs()
    candidates_B1HW = _thinned(strength_B1HW, right_B1HW, down_B1HW) & (strength_B1HW > WEAK)
    edges_B1HW = candidates_B1HW & (strength_B1HW > STRONG)
    while True:
        near_B1HW = functional.max_pool2d(edges_B1HW.float(), 3, stride=1, padding=1) > 0
        grown_B1HW = near_B1HW & candidates_B1HW
        if torch.equal(grown_B1HW, edges_B1HW):
            return edges_B1HW
        edges_B1HW = grown_B1HW


def _thinned(strength_B1HW: Tensor, right_B1HW: Tensor, down_B1HW: Tensor) -> Tensor:
    """Where an edge is stronger than its two neighbors across it; of equal ones the first counts."""
    height, width = strength_B1HW.shape[2:]
    padded_B1HW = functional.pad(strength_B1HW, (1,) * 4)

    def neighbor(down: int, right: int) -> Tensor:
        return padded_B1HW[..., 1 + down : 1 + down + height, 1 + right : 1 + right + width]

    def exceeds(first: Tensor, second: Tensor, *, strictly: bool) -> Tensor:
        return (strength_B1HW > first) & ((strength_B1HW > second) if strictly else (strength_B1HW >= second))

    flat_B1HW, steep_B1HW = right_B1HW.abs(), down_B1HW.abs()
    across_B1HW = exceeds(neighbor(0, -1), neighbor(0, 1), strictly=False)
    along_B1HW = exceeds(neighbor(-1, 0), neighbor(1, 0), strictly=False)
    falling_B1HW = exceeds(neighbor(-1, -1), neighbor(1, 1), strictly=True)
    rising_B1HW = exceeds(neighbor(-1, 1), neighbor(1, -1), strictly=True)
    # Both components of a diagonal edge are not zero here.
    diagonal_B1HW = torch.where((right_B1HW < 0) == (down_B1HW < 0), falling_B1HW, rising_B1HW)
    upright_B1HW = steep_B1HW > flat_B1HW * (TANGENT + 2)
    level_B1HW = steep_B1HW < flat_B1HW * TANGENT
    return torch.where(level_B1HW, across_B1HW, torch.where(upright_B1HW, along_B1HW, diagonal_B1HW))


def distances(edges_B1HW: Tensor) -> Tensor:
    """Euclidean distance of each pixel to the nearest edge, in pixels and at most `REACH`.

    Example:
        >>> distances(torch.tensor([[[[True, False, False, False]]]])).flatten().tolist()
        [0.0, 1.0, 2.0, 3.0]
    """
    squared_B1HW = torch.where(edges_B1HW, 0.0, float(REACH**2))
    for _ in range(2):
        # Squared distances add up, so rows and columns are treated one after the other.
        nearest_B1HW, width = squared_B1HW.clone(), squared_B1HW.shape[3]
        for step in range(1, min(REACH, width)):
            torch.minimum(
                nearest_B1HW[..., step:], squared_B1HW[..., :-step] + step**2, out=nearest_B1HW[..., step:]
            )
            torch.minimum(
                nearest_B1HW[..., :-step], squared_B1HW[..., step:] + step**2, out=nearest_B1HW[..., :-step]
            )
        squared_B1HW = nearest_B1HW.mT.contiguous()
    return squared_B1HW.sqrt()


def equalized(values_B1HW: Tensor) -> Tensor:
    """Histogram equalization of each image to 0..255, for whole numbers 0..`REACH`.

    An image that has only one value is not changed.

    Example:
        >>> equalized(torch.tensor([0.0, 1.0, 1.0, 2.0]).view(1, 1, 2, 2)).flatten().tolist()
        [0.0, 170.0, 170.0, 255.0]
    """
    levels_L = torch.arange(REACH + 1, device=values_B1HW.device)
    counts_BL = torch.stack([(values_B1HW == level).sum(dim=(1, 2, 3)) for level in levels_L.tolist()], dim=1)
    below_BL = counts_BL.cumsum(dim=1)
    first_B1 = counts_BL.gather(1, (counts_BL > 0).int().argmax(dim=1, keepdim=True))
    rest_B1 = below_BL[:, -1:] - first_B1
    # OpenCV multiplies by a factor in single precision and rounds the product. A number divided by a tensor
    # would be multiplied by its reciprocal, which is another factor.
    factor_B1 = torch.full_like(rest_B1, 255) / rest_B1.clamp(min=1)
    spread_BL = ((below_BL - first_B1).clamp(min=0) * factor_B1).round()
    table_BL = torch.where(rest_B1 > 0, spread_BL, levels_L)
    return table_BL.gather(1, values_B1HW.flatten(1).long()).view_as(values_B1HW)


_MEAN = ((1 / 9,) * 3,) * 3


def _weighted(values_B1HW: Tensor, weights: tuple[tuple[float, ...], ...]) -> Tensor:
    """Sums over 3 × 3 pixels; borders are mirrored about the center of the last pixel."""
    for axis in (2, 3):
        size = values_B1HW.shape[axis]
        places = torch.arange(-1, size + 1).abs()
        places = torch.minimum(places, 2 * (size - 1) - places).clamp(min=0).to(values_B1HW.device)
        values_B1HW = values_B1HW.index_select(axis, places)
    kernel_33 = torch.tensor(weights, dtype=torch.float32, device=values_B1HW.device)
    return functional.conv2d(values_B1HW, kernel_33[None, None])
