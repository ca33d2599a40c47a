"""Separable linear filters as a pair of matrices, borders included: ``rows @ picture @ colsᵀ``.

A filter that treats rows and columns alike is one matrix (out × in) for each axis. Borders, cropping and
resizing are then nothing special, and a batch of any number of pictures is two matrix products.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor


def separable(picture_BCHW: Tensor, rows_OH: Tensor, cols_PW: Tensor | None = None) -> Tensor:
    """``rows @ picture @ colsᵀ`` for each channel; where ``cols`` is not given, ``rows`` serves for both."""
    cols_PW = rows_OH if cols_PW is None else cols_PW
    rows_OH, cols_PW = (matrix.to(picture_BCHW) for matrix in (rows_OH, cols_PW))
    return torch.matmul(rows_OH, picture_BCHW @ cols_PW.T)


@lru_cache(maxsize=64)
def gaussian_matrix(size: int, sigma: float, truncate: float = 4.0) -> Tensor:
    """Convolution with a Gaussian, cut off beyond ``truncate`` deviations, the border's pixel repeated."""
    radius = int(truncate * sigma + 0.5)
    offsets_K = torch.arange(-radius, radius + 1)
    kernel_K = torch.exp(-0.5 * (offsets_K / max(sigma, 1e-12)).double() ** 2)
    places_SK = (torch.arange(size)[:, None] + offsets_K).clamp(0, size - 1)
    matrix_SS = torch.zeros(size, size, dtype=torch.float64)
    matrix_SS.scatter_add_(1, places_SK, (kernel_K / kernel_K.sum()).expand(size, -1))
    return matrix_SS.float()


@lru_cache(maxsize=256)
def zoom_matrix(size: int, factor: float) -> Tensor:
    """Enlarge the middle by ``factor`` ≥ 1 and keep the size: linear between pixels, ends on ends.

    The middle is ⌈size / factor⌉ pixels; the enlarged picture is cut to size about its middle.
    """
    inner = math.ceil(size / factor)
    first, enlarged = (size - inner) // 2, round(inner * factor)
    trim = (enlarged - size) // 2
    step = (inner - 1) / (enlarged - 1) if enlarged > 1 else 0.0
    return interpolation_matrix(size, first + (trim + torch.arange(size).double()) * step)


def interpolation_matrix(size: int, positions_O: Tensor) -> Tensor:
    """Linear interpolation between the pixels of a row at positions within [0, size − 1]."""
    below_O = positions_O.floor().long().clamp(0, size - 1)
    share_O = positions_O - below_O
    matrix_OS = torch.zeros(len(positions_O), size, dtype=torch.float64)
    matrix_OS.scatter_add_(1, below_O[:, None], (1 - share_O)[:, None])
    matrix_OS.scatter_add_(1, (below_O + 1).clamp(max=size - 1)[:, None], share_O[:, None])
    return matrix_OS.float()


@lru_cache(maxsize=64)
def box_matrix(size: int, out: int) -> Tensor:
    """Resize to ``out`` pixels: the mean of source pixels whose middle lies in the target pixel.

    At least the nearest one counts, so enlarging repeats pixels (Pillow's BOX).
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
