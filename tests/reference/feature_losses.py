"""Losses on features and maps as their papers write them: python loops over images, on float64 numbers.

Slow and obvious on purpose. Nothing here calls the package or a tensor operation beyond reading values.
"""

from __future__ import annotations

import math

from torch import Tensor

Rows = list[list[float]]


def rows(x_BX: Tensor) -> Rows:
    """Each image as a flat list of numbers."""
    return [[float(value) for value in image.flatten().tolist()] for image in x_BX.detach().double()]


def dot(a: list[float], b: list[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))


def length(a: list[float]) -> float:
    return math.sqrt(dot(a, a))


def huber(difference: float) -> float:
    return difference**2 / 2 if abs(difference) <= 1 else abs(difference) - 0.5


def hint(projected_BFHW: Tensor, teacher_BFHW: Tensor) -> float:
    """Romero et al. 2015, equation 3, as a mean."""
    squares = [
        (s - t) ** 2
        for s_row, t_row in zip(rows(projected_BFHW), rows(teacher_BFHW), strict=True)
        for s, t in zip(s_row, t_row, strict=True)
    ]
    return sum(squares) / len(squares)


def vid(mean_BFHW: Tensor, variance_F: Tensor, teacher_BFHW: Tensor) -> float:
    """Ahn et al. 2019, equation 5, as a mean and without the constant."""
    values = []
    for means, targets in zip(mean_BFHW.tolist(), teacher_BFHW.tolist(), strict=True):
        for channel, variance in enumerate(variance_F.tolist()):
            for mean_row, target_row in zip(means[channel], targets[channel], strict=True):
                for mean, target in zip(mean_row, target_row, strict=True):
                    values.append(math.log(math.sqrt(variance)) + (target - mean) ** 2 / (2 * variance))
    return sum(values) / len(values)


def similarities(map_BX: Tensor) -> Rows:
    """Tung and Mori 2019, equations 2 and 3."""
    images = rows(map_BX)
    products = [[dot(a, b) for b in images] for a in images]
    return [[value / length(row) for value in row] for row in products]


def similarity(student_BX: Tensor, teacher_BX: Tensor) -> float:
    """Tung and Mori 2019, equation 4, for one pair of layers."""
    student, teacher = similarities(student_BX), similarities(teacher_BX)
    count = len(student)
    return sum((teacher[i][j] - student[i][j]) ** 2 for i in range(count) for j in range(count)) / count**2


def distances(x_BF: Tensor) -> Rows:
    """Park et al. 2019, equations 4 and 5."""
    images = rows(x_BF)
    all_pairs = [[length([a - b for a, b in zip(x, y, strict=True)]) for y in images] for x in images]
    apart = [d for row in all_pairs for d in row if d > 0]
    return [[d / (sum(apart) / len(apart)) for d in row] for row in all_pairs]


def cosine_at(x: list[float], y: list[float], z: list[float]) -> float:
    """Cosine of the angle at y (Park et al. 2019, equation 7); 0 if two of the points coincide."""
    first, second = ([a - b for a, b in zip(end, y, strict=True)] for end in (x, z))
    if not length(first) or not length(second):
        return 0.0
    return dot(first, second) / (length(first) * length(second))


def rkd(student_BF: Tensor, teacher_BF: Tensor, distance: float, angle: float) -> float:
    """Park et al. 2019, equations 6 and 8, as means over all pairs and triplets."""
    count = len(student_BF)
    d_s, d_t, s, t = distances(student_BF), distances(teacher_BF), rows(student_BF), rows(teacher_BF)
    of_pairs = [huber(d_s[i][j] - d_t[i][j]) for i in range(count) for j in range(count)]
    of_triplets = [
        huber(cosine_at(s[i], s[j], s[k]) - cosine_at(t[i], t[j], t[k]))
        for i in range(count)
        for j in range(count)
        for k in range(count)
    ]
    return distance * sum(of_pairs) / len(of_pairs) + angle * sum(of_triplets) / len(of_triplets)


def neighbors(x_BF: Tensor) -> Rows:
    """Passalis and Tefas 2018, equations 3 and 6; an image is a neighbor of itself, as in their code."""
    images = rows(x_BF)
    kernels = [[(dot(a, b) / (length(a) * length(b)) + 1) / 2 for b in images] for a in images]
    return [[kernel / sum(row) for kernel in row] for row in kernels]


def pkt(student_BF: Tensor, teacher_BF: Tensor, smallest: float = 1e-7) -> float:
    """Passalis and Tefas 2018, equation 7, as the mean of their code."""
    q, p = neighbors(student_BF), neighbors(teacher_BF)
    values = [
        teacher * math.log((teacher + smallest) / (student + smallest))
        for q_row, p_row in zip(q, p, strict=True)
        for student, teacher in zip(q_row, p_row, strict=True)
    ]
    return sum(values) / len(values)


def embed(projected_BF: Tensor, teacher_BF: Tensor, loss: str) -> float:
    values = []
    for s, t in zip(rows(projected_BF), rows(teacher_BF), strict=True):
        if loss == "cosine":
            values.append(1 - dot(s, t) / (length(s) * length(t)))
        else:
            values.append(sum((a - b) ** 2 for a, b in zip(s, t, strict=True)) / len(s))
    return sum(values) / len(values)
