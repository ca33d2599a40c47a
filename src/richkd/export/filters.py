"""The filters of Pillow's resize as functions of the distance from the center, in its order of operations."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor


def _bilinear(distance: Tensor) -> Tensor:
    return (1.0 - distance.abs()).clamp(min=0.0)


def _bicubic(distance: Tensor) -> Tensor:
    x = distance.abs()
    near, far = (1.5 * x - 2.5) * x * x + 1.0, (((x - 5.0) * x + 8.0) * x - 4.0) * -0.5
    return torch.where(x < 1.0, near, torch.where(x < 2.0, far, torch.zeros_like(x)))


def _lanczos(distance: Tensor) -> Tensor:
    inside = (distance >= -3.0) & (distance < 3.0)
    return torch.where(inside, _sinc(distance) * _sinc(distance / 3.0), torch.zeros_like(distance))


def _box(distance: Tensor) -> Tensor:
    return ((distance > -0.5) & (distance <= 0.5)).double()


def _hamming(distance: Tensor) -> Tensor:
    window = 0.54 + 0.46 * torch.cos(math.pi * distance)
    return torch.where(distance.abs() < 1.0, _sinc(distance) * window, torch.zeros_like(distance))


def _sinc(x: Tensor) -> Tensor:
    one = torch.ones_like(x)
    angle = math.pi * torch.where(x == 0.0, one, x)
    return torch.where(x == 0.0, one, torch.sin(angle) / angle)


# Each filter with the distance beyond which it is zero.
FILTERS: dict[str, tuple[Callable[[Tensor], Tensor], float]] = {
    "bilinear": (_bilinear, 1.0),
    "bicubic": (_bicubic, 2.0),
    "lanczos": (_lanczos, 3.0),
    "box": (_box, 0.5),
    "hamming": (_hamming, 1.0),
}
