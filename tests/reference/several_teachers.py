"""Losses of several teachers as their papers write them: loops over images, teachers and classes."""

from __future__ import annotations

import math

from torch import Tensor

from tests.reference.losses import rows, softmax

# Numbers by teacher, image and class.
Logits = list[list[list[float]]]


def as_lists(teachers: list[Tensor]) -> Logits:
    return [rows(teacher) for teacher in teachers]


def kl(p: list[float], q: list[float]) -> float:
    return sum(a * math.log(a / b) for a, b in zip(p, q, strict=True) if a > 0)


def aver(student: Tensor, teachers: list[Tensor], t: float) -> list[float]:
    """T² · KL from the mean of softened probabilities, for each image (You et al. 2017)."""
    losses = []
    for image, row in enumerate(rows(student)):
        each = [softmax(logits[image], t) for logits in as_lists(teachers)]
        mean = [sum(p[c] for p in each) / len(each) for c in range(len(row))]
        losses.append(t * t * kl(mean, softmax(row, t)))
    return losses


def weighted(student: Tensor, teachers: list[Tensor], weights: list[list[float]], t: float) -> list[float]:
    """T² · Σ_m w_m · KL from each teacher, for each image; weights by teacher and image."""
    losses = []
    for image, row in enumerate(rows(student)):
        loss = 0.0
        for logits, weight in zip(as_lists(teachers), weights, strict=True):
            loss += weight[image] * kl(softmax(logits[image], t), softmax(row, t))
        losses.append(t * t * loss)
    return losses


def ebkd_weights(teachers: list[Tensor]) -> list[list[float]]:
    """1 minus a teacher's share of the sum of entropies, divided by the number of other teachers."""
    entropies = [
        [-sum(p * math.log(p) for p in softmax(row) if p > 0) for row in logits]
        for logits in as_lists(teachers)
    ]
    return [[_less(entropy, [e[i] for e in entropies]) for i, entropy in enumerate(row)] for row in entropies]


def ca_mkd_weights(teachers: list[Tensor], labels: list[int]) -> list[list[float]]:
    """Equations 1 and 2 of Zhang et al. 2022; equal weights for images without a label."""
    errors = []
    for logits in as_lists(teachers):
        each = []
        for row, label in zip(logits, labels, strict=True):
            each.append(0.0 if label < 0 else -math.log(softmax(row)[label]))
        errors.append([math.exp(error) for error in each])
    return [[_less(error, [e[i] for e in errors]) for i, error in enumerate(row)] for row in errors]


def _less(value: float, everyone: list[float]) -> float:
    return 1.0 if len(everyone) == 1 else (1 - value / sum(everyone)) / (len(everyone) - 1)


def ca_mkd_maps(pairs: list[tuple[Tensor, Tensor]], weights: list[list[float]]) -> float:
    """Equation 6 with the mean of squares, averaged over images."""
    images, total = len(pairs[0][0]), 0.0
    for image in range(images):
        for (student, teacher), weight in zip(pairs, weights, strict=True):
            s, t = student[image].flatten().tolist(), teacher[image].flatten().tolist()
            total += weight[image] * sum((a - b) ** 2 for a, b in zip(s, t, strict=True)) / len(s)
    return total / images
