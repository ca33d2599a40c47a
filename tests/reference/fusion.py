"""Fusion as loops over images and classes, on Python numbers. Slow and obvious on purpose."""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor

Rows = list[list[float]]


def fused(logits: Sequence[Tensor], weights: Sequence[float]) -> Rows:
    teachers = [z_BC.double().tolist() for z_BC in logits]
    images, classes = logits[0].shape
    return [
        [sum(w * z[b][c] for w, z in zip(weights, teachers, strict=True)) for c in range(classes)]
        for b in range(images)
    ]


def log_softmax(row: Sequence[float]) -> list[float]:
    top = max(row)
    log_sum = top + math.log(sum(math.exp(value - top) for value in row))
    return [value - log_sum for value in row]


def nll(logits: Sequence[Tensor], weights: Sequence[float], labels_B: Tensor) -> float:
    rows = fused(logits, weights)
    losses = [-log_softmax(row)[label] for row, label in zip(rows, labels_B.tolist(), strict=True)]
    return sum(losses) / len(losses)


def divergence(fused_BC: Tensor, other_BC: Tensor, temperature: float) -> float:
    """Mean KL of one softened answer from another."""
    total = 0.0
    for fused_row, other_row in zip(fused_BC.tolist(), other_BC.tolist(), strict=True):
        p = log_softmax([value / temperature for value in fused_row])
        q = log_softmax([value / temperature for value in other_row])
        total += sum(math.exp(a) * (a - b) for a, b in zip(p, q, strict=True))
    return total / len(fused_BC)
