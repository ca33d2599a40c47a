"""Losses on intermediate maps as their papers write them: loops over images, channels and positions.

Slow and obvious on purpose. Nothing here calls the package, or a tensor operation beyond reading values. A
map is a list of channels, each a list of rows.
"""

from __future__ import annotations

import math
from collections.abc import Callable

from torch import Tensor

Map = list[list[list[float]]]


def maps(map_BFHW: Tensor) -> list[Map]:
    return [[list(map(list, channel)) for channel in image] for image in map_BFHW.detach().double().tolist()]


def overhaul(triples: list[tuple[Tensor, Tensor, Tensor]], weights: list[float] | None = None) -> float:
    """Heo et al. 2019, as the code writes it: the last stage counts 1, each earlier one half of the next."""
    total = 0.0
    for place, (student, teacher, margins) in enumerate(triples):
        stage = 0.0
        for image, (s_map, t_map) in enumerate(zip(maps(student), maps(teacher), strict=True)):
            for channel, margin in enumerate(margins.tolist()):
                for s_row, t_row in zip(s_map[channel], t_map[channel], strict=True):
                    for s, t in zip(s_row, t_row, strict=True):
                        target = max(t, margin)
                        if not s <= target <= 0:
                            stage += (weights[image] if weights else 1.0) * (s - target) ** 2
        total += stage / len(student) / 2 ** (len(triples) - place - 1)
    return total


def margin_of_norm(scale: float, shift: float, steps: int = 400_000) -> float:
    """E[x | x < 0] of a normal variable with this deviation and mean, by adding up its density."""
    low = min(shift, 0.0) - 12 * abs(scale)
    width = -low / steps
    mass = mean = 0.0
    for step in range(steps):
        x = low + (step + 0.5) * width
        density = math.exp(-(((x - shift) / scale) ** 2) / 2)
        mass += density
        mean += density * x
    return mean / mass


def pooled(image: Map, side: int) -> Map:
    """Means over side × side windows, whose bounds are rounded outward as in adaptive pooling."""
    height, width = len(image[0]), len(image[0][0])

    def window(place: int, length: int) -> range:
        return range(place * length // side, -(-(place + 1) * length // side))

    return [
        [
            [
                sum(channel[i][j] for i in window(row, height) for j in window(col, width))
                / (len(window(row, height)) * len(window(col, width)))
                for col in range(side)
            ]
            for row in range(side)
        ]
        for channel in image
    ]


def context(levels: list[tuple[Tensor, Tensor]], weights: list[float] | None = None) -> float:
    """The hierarchical context loss of Chen et al. 2021, as its code writes it."""
    total = 0.0
    for student, teacher in levels:
        stage = 0.0
        for image, (s_map, t_map) in enumerate(zip(maps(student), maps(teacher), strict=True)):
            loss, share, shares = mean_square(s_map, t_map), 1.0, 1.0
            for side in (4, 2, 1):
                if side < len(s_map[0]):
                    share /= 2
                    loss += share * mean_square(pooled(s_map, side), pooled(t_map, side))
                    shares += share
            stage += (weights[image] if weights else 1.0) * loss / shares
        total += stage / len(student)
    return total


def mean_square(student: Map, teacher: Map) -> float:
    squares = [
        (s - t) ** 2
        for s_channel, t_channel in zip(student, teacher, strict=True)
        for s_row, t_row in zip(s_channel, t_channel, strict=True)
        for s, t in zip(s_row, t_row, strict=True)
    ]
    return sum(squares) / len(squares)


def convolved(image: Map, weight: list[list[list[list[float]]]], bias: list[float] | None = None) -> Map:
    """A convolution with zeros around the map, so that the size stays."""
    height, width, reach = len(image[0]), len(image[0][0]), len(weight[0][0]) // 2

    def value(kernel: list[list[list[float]]], row: int, col: int) -> float:
        return sum(
            kernel[channel][i + reach][j + reach] * image[channel][row + i][col + j]
            for channel in range(len(image))
            for i in range(-reach, reach + 1)
            for j in range(-reach, reach + 1)
            if 0 <= row + i < height and 0 <= col + j < width
        )

    return [
        [
            [value(kernel, row, col) + (bias[number] if bias else 0.0) for col in range(width)]
            for row in range(height)
        ]
        for number, kernel in enumerate(weight)
    ]


def normalized(images: list[Map], eps: float = 1e-5) -> list[Map]:
    """Batch normalization with scale 1 and shift 0, by the statistics of these images."""
    result: list[Map] = [[] for _ in images]
    for channel in range(len(images[0])):
        values = [value for image in images for row in image[channel] for value in row]
        mean = sum(values) / len(values)
        deviation = math.sqrt(sum((value - mean) ** 2 for value in values) / len(values) + eps)
        for place, image in enumerate(images):
            result[place].append([[(value - mean) / deviation for value in row] for row in image[channel]])
    return result


def nearest(image: Map, height: int, width: int) -> Map:
    return [
        [
            [channel[row * len(channel) // height][col * len(channel[0]) // width] for col in range(width)]
            for row in range(height)
        ]
        for channel in image
    ]


def fusion(
    weights: Callable[[str], list], shallow: list[Map], deeper: list[Map] | None, size: tuple[int, int]
) -> tuple[list[Map], list[Map]]:
    """Attention-based fusion (Chen et al. 2021, figure 3): the output, and the fusion of the next stage."""
    fused = normalized([convolved(image, weights("reduce.0.weight")) for image in shallow])
    if deeper is not None:
        height, width = len(fused[0][0]), len(fused[0][0][0])
        both = [(x, nearest(y, height, width)) for x, y in zip(fused, deeper, strict=True)]
        fused = []
        for x, y in both:
            shares = convolved([*x, *y], weights("attention.weight"), weights("attention.bias"))
            a, b = ([[1 / (1 + math.exp(-value)) for value in row] for row in share] for share in shares)
            fused.append(
                [
                    [
                        [x[c][i][j] * a[i][j] + y[c][i][j] * b[i][j] for j in range(width)]
                        for i in range(height)
                    ]
                    for c in range(len(x))
                ]
            )
    fused = [nearest(image, *size) for image in fused]
    return normalized([convolved(image, weights("expand.0.weight")) for image in fused]), fused
