"""Separable linear filters as a pair of matrices: ``rows @ image @ colsᵀ``.

A filter that treats rows and columns separately is one matrix (out × in) for each axis. The matrix also
describes the treatment of borders, cropping and resizing. A batch of images is then two matrix products.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor


def separable(image_BCHW: Tensor, rows_OH: Tensor, cols_PW: Tensor | None = None) -> Tensor:
    """``rows @ image @ colsᵀ`` (B, C, O, P) for each channel; ``cols_PW`` defaults to ``rows_OH``.

    Example:
        >>> mean_of_pairs = torch.tensor([[0.5, 0.5, 0, 0], [0, 0, 0.5, 0.5]])
        >>> separable(torch.arange(16.0).view(1, 1, 4, 4), mean_of_pairs).tolist()
        [[[[2.5, 4.5], [10.5, 12.5]]]]
    """
    cols_PW = rows_OH if cols_PW is None else cols_PW
    rows_OH, cols_PW = (matrix.to(image_BCHW) for matrix in (rows_OH, cols_PW))
    return torch.matmul(rows_OH, image_BCHW @ cols_PW.T)


@lru_cache(maxsize=64)
def gaussian_matrix(
    size: int, sigma: float, truncate: float = 4.0, *, mirrored_edges: bool = False
) -> Tensor:
    """The matrix (size, size) of a convolution with a Gaussian; border pixels are repeated by default.

    Args:
        sigma: standard deviation in pixels.
        truncate: the Gaussian is cut off beyond this many standard deviations.
        mirrored_edges: mirror the image about the outer edge of the last pixel instead, several times if the
            Gaussian is longer than the image.

    Example:
        >>> matrix = gaussian_matrix(5, sigma=1.0)
        >>> [round(weight, 3) for weight in matrix[2].tolist()]
        [0.059, 0.242, 0.399, 0.242, 0.059]
        >>> gaussian_matrix(2, sigma=100.0, mirrored_edges=True).round(decimals=2).tolist()
        [[0.5, 0.5], [0.5, 0.5]]
    """
    radius = int(truncate * sigma + 0.5)
    offsets_K = torch.arange(-radius, radius + 1)
    kernel_K = torch.exp(-0.5 * (offsets_K / max(sigma, 1e-12)).double() ** 2)
    places_SK = torch.arange(size)[:, None] + offsets_K
    if mirrored_edges:
        places_SK = places_SK % (2 * size)
        places_SK = torch.minimum(places_SK, 2 * size - 1 - places_SK)
    places_SK = places_SK.clamp(0, size - 1)
    matrix_SS = torch.zeros(size, size, dtype=torch.float64)
    matrix_SS.scatter_add_(1, places_SK, (kernel_K / kernel_K.sum()).expand(size, -1))
    return matrix_SS.float()


@lru_cache(maxsize=256)
def zoom_matrix(size: int, factor: float) -> Tensor:
    """The matrix (size, size) that enlarges the center of an image by ``factor`` ≥ 1 and keeps its size.

    The center has ⌈size / factor⌉ pixels. It is enlarged by linear interpolation that maps its first and last
    pixel onto the first and last pixel of the result, which is then cropped to ``size`` about its center.

    Example:
        >>> [[round(weight, 2) for weight in row] for row in zoom_matrix(4, factor=2.0)[:2].tolist()]
        [[0.0, 1.0, 0.0, 0.0], [0.0, 0.67, 0.33, 0.0]]
    """
    inner = math.ceil(size / factor)
    first, enlarged = (size - inner) // 2, round(inner * factor)
    trim = (enlarged - size) // 2
    step = (inner - 1) / (enlarged - 1) if enlarged > 1 else 0.0
    return interpolation_matrix(size, first + (trim + torch.arange(size).double()) * step)


def interpolation_matrix(size: int, positions_O: Tensor) -> Tensor:
    """The matrix (O, size) of linear interpolation between pixels, at positions (float64) in [0, size − 1].

    Example:
        >>> interpolation_matrix(3, torch.tensor([0.0, 1.25]).double()).tolist()
        [[1.0, 0.0, 0.0], [0.0, 0.75, 0.25]]
    """
    below_O = positions_O.floor().long().clamp(0, size - 1)
    share_O = positions_O - below_O
    matrix_OS = torch.zeros(len(positions_O), size, dtype=torch.float64)
    matrix_OS.scatter_add_(1, below_O[:, None], (1 - share_O)[:, None])
    matrix_OS.scatter_add_(1, (below_O + 1).clamp(max=size - 1)[:, None], share_O[:, None])
    return matrix_OS.float()


@lru_cache(maxsize=64)
def box_matrix(size: int, out: int) -> Tensor:
    """The matrix (out, size) that resizes like Pillow's ``BOX`` filter.

    A target pixel is the mean of the source pixels whose center lies in it. If there is none, it is the
    nearest source pixel: enlarging repeats pixels.

    Example:
        >>> box_matrix(4, 2).tolist()
        [[0.5, 0.5, 0.0, 0.0], [0.0, 0.0, 0.5, 0.5]]
        >>> box_matrix(2, 4).tolist()
        [[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]]
    """
    scale = size / out
    support = max(scale, 1.0) / 2
    middles_O = (torch.arange(out).double() + 0.5) * scale
    first_O = (middles_O - support + 0.5).floor().clamp(min=0)
    last_O = (middles_O + support + 0.5).floor().clamp(max=size)
    places_S = torch.arange(size)
    inside_OS = (places_S >= first_O[:, None]) & (places_S < last_O[:, None])
    away_OS = (places_S + 0.5 - middles_O[:, None]) / max(scale, 1.0)
    weights_OS = (inside_OS & (away_OS > -0.5) & (away_OS <= 0.5)).double()
    return (weights_OS / weights_OS.sum(dim=1, keepdim=True)).float()
