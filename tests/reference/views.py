"""Views as loops over single images and pixels, and random numbers in Python's own integers.

Slow and obvious on purpose. Nothing here calls the package.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

U64 = (1 << 64) - 1
RGB = tuple[float, float, float]


def uniform(stream: int, index: int) -> float:
    """The SplitMix64 finaliser of index · golden + stream, on unsigned words, as 53 bits of a fraction."""
    x = (index * 0x9E3779B97F4A7C15 + stream - (1 << 63)) & U64
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & U64
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & U64
    x ^= x >> 31
    return float((x >> 11) / 2.0**53)


def crop_flip(pixels_HWC: NDArray[np.uint8], top: int, left: int, size: int, pad: int, flip: bool) -> NDArray:
    """Pad one image with black, cut ``size`` × ``size`` pixels out, and mirror them, pixel by pixel."""
    height, width, _ = pixels_HWC.shape
    padded = np.zeros((height + 2 * pad, width + 2 * pad, 3), dtype=np.uint8)
    padded[pad : pad + height, pad : pad + width] = pixels_HWC
    seen = np.zeros((size, size, 3), dtype=np.uint8)
    for row in range(size):
        for col in range(size):
            source_col = size - 1 - col if flip else col
            seen[row, col] = padded[pad + top + row, pad + left + source_col]
    return seen


def normalize(seen_HWC: NDArray[np.uint8], mean: RGB, std: RGB) -> NDArray[np.float32]:
    """Channels first, in float32: (pixel / 255 − mean) / std."""
    channels = []
    for c in range(3):
        values = seen_HWC[:, :, c].astype(np.float32) / np.float32(255)
        channels.append((values - np.float32(mean[c])) / np.float32(std[c]))
    return np.stack(channels)


def resize(
    pixels_HWC: NDArray[np.uint8], box: Sequence[float], flip: bool, size: int, border: int
) -> NDArray[np.float64]:
    """A box of one image at ``size`` pixels in 0..1: a triangle filter along each axis, weight by weight."""
    height, width, _ = pixels_HWC.shape
    top, left, box_height, box_width = box
    seen = np.zeros((size, size, 3))
    for row in range(size):
        for col in range(size):
            down = _taps(top + (row + 0.5) * box_height / size - 0.5, box_height / size, height, border)
            across = _taps(left + (col + 0.5) * box_width / size - 0.5, box_width / size, width, border)
            total = np.zeros(3)
            for y, weight_y in down:
                for x, weight_x in across:
                    if 0 <= y < height and 0 <= x < width:
                        total += weight_y * weight_x * pixels_HWC[y, x] / 255
            seen[row, size - 1 - col if flip else col] = total
    return seen


def _taps(position: float, step: float, source: int, border: int) -> list[tuple[int, float]]:
    reach = max(1.0, step)
    near = [(s, 1 - abs(s - position) / reach) for s in range(-border, source + border)]
    near = [(s, weight) for s, weight in near if weight > 0]
    total = sum(weight for _, weight in near)
    return [(s, weight / total) for s, weight in near]
