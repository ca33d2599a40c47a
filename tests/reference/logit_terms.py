"""Loss terms on logits as their papers define them: loops over images and classes, on float64 numbers.

Weights of images: the loss of image i counts w_i times, an image of weight 0 might as well be absent, and a
weight that all images share is a factor.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

from tests.reference.losses import Rows, rows, softmax


def nkd(
    student_BC: Tensor,
    teacher_BC: Tensor,
    labels: Sequence[int],
    temperature: float,
    gamma: float,
    weights: Sequence[float],
) -> float:
    total = 0.0
    for s, t, y, w in zip(rows(student_BC), rows(teacher_BC), labels, weights, strict=True):
        if y == -1:
            y = t.index(max(t))
        loss = -softmax(t)[y] * math.log(softmax(s)[y])
        s_hat = softmax([z for c, z in enumerate(s) if c != y], temperature)
        t_hat = softmax([z for c, z in enumerate(t) if c != y], temperature)
        for p, q in zip(t_hat, s_hat, strict=True):
            loss -= gamma * temperature**2 * p * math.log(q)
        total += w * loss
    return total / len(weights)


def correlation(x: Sequence[float], y: Sequence[float], weights: Sequence[float]) -> float:
    """Pearson correlation of weighted pairs."""
    weight = sum(weights)
    x_mean = sum(w * a for w, a in zip(weights, x, strict=True)) / weight
    y_mean = sum(w * b for w, b in zip(weights, y, strict=True)) / weight
    triples = list(zip(weights, x, y, strict=True))
    covariance = sum(w * (a - x_mean) * (b - y_mean) for w, a, b in triples)
    x_square = sum(w * (a - x_mean) ** 2 for w, a, _ in triples)
    y_square = sum(w * (b - y_mean) ** 2 for w, _, b in triples)
    return covariance / math.sqrt(x_square * y_square)


def dist(
    student_BC: Tensor,
    teacher_BC: Tensor,
    temperature: float,
    beta: float,
    gamma: float,
    weights: Sequence[float],
) -> float:
    student = [softmax(row, temperature) for row in rows(student_BC)]
    teacher = [softmax(row, temperature) for row in rows(teacher_BC)]
    images, classes = len(student), len(student[0])
    inter = 0.0
    for s, t, w in zip(student, teacher, weights, strict=True):
        inter += w * (1 - correlation(s, t, [1.0] * classes)) / images
    intra = 0.0
    for c in range(classes):
        rho = correlation([row[c] for row in student], [row[c] for row in teacher], weights)
        intra += (1 - rho) / classes * sum(weights) / images
    return temperature**2 * (beta * inter + gamma * intra)


def wttm(student_BC: Tensor, teacher_BC: Tensor, temperature: float, weights: Sequence[float]) -> float:
    total = 0.0
    for s, t, w in zip(rows(student_BC), rows(teacher_BC), weights, strict=True):
        powers = [p ** (1 / temperature) for p in softmax(t)]
        power_sum = sum(powers)
        divergence = 0.0
        for power, q in zip(powers, softmax(s), strict=True):
            divergence += power / power_sum * math.log(power / power_sum / q)
        total += w * power_sum * divergence
    return total / len(weights)


def mlkd(
    student_BC: Tensor, teacher_BC: Tensor, temperatures: Sequence[float], weights: Sequence[float]
) -> float:
    total = 0.0
    for temperature in temperatures:
        student = [softmax(row, temperature) for row in rows(student_BC)]
        teacher = [softmax(row, temperature) for row in rows(teacher_BC)]
        images, classes = len(student), len(student[0])
        for s, t, w in zip(student, teacher, weights, strict=True):
            divergence = sum(p * math.log(p / q) for p, q in zip(t, s, strict=True))
            total += w * temperature**2 * divergence / images
        for i in range(images):
            for j in range(images):
                similar = [sum(net[i][c] * net[j][c] for c in range(classes)) for net in (teacher, student)]
                total += math.sqrt(weights[i] * weights[j]) * (similar[0] - similar[1]) ** 2 / images
        for c in range(classes):
            for d in range(classes):
                both = [
                    sum(math.sqrt(w) * row[c] * row[d] for w, row in zip(weights, net, strict=True))
                    for net in (teacher, student)
                ]
                total += (both[0] - both[1]) ** 2 / classes
    return total


def standardize(logits_BC: Tensor) -> Rows:
    result = []
    for row in rows(logits_BC):
        mean = sum(row) / len(row)
        std = math.sqrt(sum((z - mean) ** 2 for z in row) / (len(row) - 1))
        result.append([(z - mean) / (std + 1e-7) for z in row])
    return result
