"""Evaluation as loops over images, orders, bins and coins. Slow and obvious on purpose."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

Outcome = tuple[float, bool]


def outcomes(probs_NC: Tensor, labels_N: Tensor) -> list[Outcome]:
    """Confidence and correctness of each image."""
    pairs = zip(probs_NC.double().tolist(), labels_N.tolist(), strict=True)
    return [(max(row), row.index(max(row)) == label) for row, label in pairs]


def orders(images: Sequence[Outcome]) -> Iterator[list[bool]]:
    """Errors by falling confidence, once for each way of ordering the tied images (and equally often)."""
    for order in itertools.permutations(images):
        yield [not right for _, right in sorted(order, key=lambda image: -image[0])]


def over_orders(images: Sequence[Outcome], figure: Callable[[list[bool]], float]) -> float:
    values = [figure(errors) for errors in orders(images)]
    return math.fsum(values) / len(values)


def aurc(errors: Sequence[bool]) -> float:
    return sum(sum(errors[:k]) / k for k in range(1, len(errors) + 1)) / len(errors)


def augrc(errors: Sequence[bool]) -> float:
    return sum(sum(errors[:k]) / len(errors) for k in range(1, len(errors) + 1)) / len(errors)


def moves(
    a: Sequence[Outcome], b: Sequence[Outcome], a_threshold: float, b_threshold: float
) -> list[list[int]]:
    states = [(True, True), (True, False), (False, True), (False, False)]
    table = [[0] * 4 for _ in states]
    for (a_confidence, a_right), (b_confidence, b_right) in zip(a, b, strict=True):
        row = states.index((a_right, a_confidence >= a_threshold))
        column = states.index((b_right, b_confidence >= b_threshold))
        table[row][column] += 1
    return table


def bins_of(images: Sequence[Outcome], bins: int) -> list[list[Outcome]]:
    """Images of each equal-width bin."""
    edges = np.linspace(0, 1, bins + 1)
    members: list[list[Outcome]] = [[] for _ in range(bins)]
    for image in images:
        inside = [b for b in range(bins) if edges[b] <= image[0] < edges[b + 1] or image[0] >= 1.0]
        members[inside[-1]].append(image)
    return members


def adaptive_ece(images: Sequence[Outcome], bins: int) -> float:
    """Each image is cut into as many pieces as there are bins, so that each bin gets N of them."""
    pieces = []
    for confidence in sorted((c for c, _ in images), reverse=True):
        tied = [right for c, right in images if c == confidence]
        pieces += [sum(tied) / len(tied) - confidence] * bins
    n = len(images)
    return sum(abs(sum(pieces[b * n : (b + 1) * n])) for b in range(bins)) / (n * bins)


def resampled_means(values_NS: NDArray[np.float64], resamples: int, key: int) -> NDArray[np.float64]:
    """Means over images that are drawn one resample after the other."""
    generator = np.random.default_rng(key)
    n = len(values_NS)
    return np.stack([values_NS[generator.integers(n, size=n)].mean(0) for _ in range(resamples)])


def resampled_ece(images: Sequence[Outcome], bins: int, resamples: int, key: int) -> list[float]:
    generator = np.random.default_rng(key)
    n = len(images)
    values = []
    for _ in range(resamples):
        drawn = bins_of([images[i] for i in generator.integers(n, size=n)], bins)
        values.append(sum(abs(sum(right - c for c, right in members)) for members in drawn) / n)
    return values


def mcnemar(only_a: int, only_b: int) -> tuple[float, float]:
    """Exact and mid-p, by throwing every sequence of coins."""
    n = only_a + only_b
    beyond = equal = 0
    for coins in itertools.product((0, 1), repeat=n):
        difference = abs(2 * sum(coins) - n)
        beyond += difference > abs(only_a - only_b)
        equal += difference == abs(only_a - only_b)
    return (beyond + equal) / 2**n, (beyond + equal / 2) / 2**n
