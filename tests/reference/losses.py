"""Losses as their papers write them: python loops over images, classes and negatives, on float64 numbers.

Slow and obvious on purpose. Nothing here calls the package or a tensor operation beyond reading values.
"""

from __future__ import annotations

import math

from torch import Tensor

Rows = list[list[float]]


def rows(x_BD: Tensor) -> Rows:
    return [[float(value) for value in row] for row in x_BD.detach().double().tolist()]


def softmax(row: list[float], temperature: float = 1.0) -> list[float]:
    powers = [math.exp((value - max(row)) / temperature) for value in row]
    return [power / sum(powers) for power in powers]


def cross_entropy(logits_BC: Tensor, labels_B: Tensor, label_smoothing: float = 0.0) -> float:
    losses = []
    for row, label in zip(rows(logits_BC), labels_B.tolist(), strict=True):
        loss = 0.0
        for c, p in enumerate(softmax(row)):
            q = label_smoothing / len(row) + (1 - label_smoothing if c == label else 0.0)
            loss -= q * math.log(p)
        losses.append(loss)
    return sum(losses) / len(losses)


def kl_nats(p_logits_BC: Tensor, q_logits_BC: Tensor, temperature: float = 1.0) -> list[float]:
    result = []
    for p_row, q_row in zip(rows(p_logits_BC), rows(q_logits_BC), strict=True):
        pairs = zip(softmax(p_row, temperature), softmax(q_row, temperature), strict=True)
        result.append(sum(p * math.log(p / q) for p, q in pairs))
    return result


def kd_divergence(student_BC: Tensor, teacher_BC: Tensor, temperature: float) -> float:
    divergences = kl_nats(teacher_BC, student_BC, temperature)
    return temperature**2 * sum(divergences) / len(divergences)


def normalize(x_BD: Tensor) -> Rows:
    result = []
    for row in rows(x_BD):
        length = math.sqrt(sum(value**2 for value in row))
        result.append([value / length if length else 0.0 for value in row])
    return result


def fuse_features(feats: list[Tensor], weights: list[float]) -> Rows:
    result = []
    for image in range(len(feats[0])):
        fused = [0.0] * feats[0].shape[1]
        for feat, weight in zip(feats, weights, strict=True):
            for d, value in enumerate(feat[image].tolist()):
                fused[d] += weight * value
        length = math.sqrt(sum(value**2 for value in fused))
        result.append([value / length for value in fused])
    return result


def bank_scores(v_BD: Tensor, bank_ND: Tensor, rows_BK: Tensor, temperature: float) -> Rows:
    bank = rows(bank_ND)
    result = []
    for v, selected in zip(rows(v_BD), rows_BK.tolist(), strict=True):
        dots = [sum(a * b for a, b in zip(bank[row], v, strict=True)) for row in selected]
        result.append([math.exp(dot / temperature) for dot in dots])
    return result


def nce_loss(scores_BK1: Rows, normalizer: float, images: int) -> float:
    total = 0.0
    for scores in scores_BK1:
        c = (len(scores) - 1) / images
        positive, *negatives = [score / normalizer for score in scores]
        total += math.log(positive / (positive + c))
        for p in negatives:
            total += math.log(c / (p + c))
    return -total / len(scores_BK1)


def estimate_normalizer(scores_BK1: Rows, images: int) -> float:
    every = [score for scores in scores_BK1 for score in scores]
    return sum(every) / len(every) * images


def contrast_loss(
    student_BD: Tensor,
    target_BD: Tensor,
    student_bank_ND: Tensor,
    target_bank_ND: Tensor,
    rows_BK1: Tensor,
    normalizers: tuple[float, float],
    temperature: float,
) -> float:
    of_student = bank_scores(student_BD, target_bank_ND, rows_BK1, temperature)
    of_target = bank_scores(target_BD, student_bank_ND, rows_BK1, temperature)
    images = len(student_bank_ND)
    return nce_loss(of_student, normalizers[0], images) + nce_loss(of_target, normalizers[1], images)


def update_bank(bank_ND: Tensor, rows_B: Tensor, v_BD: Tensor, momentum: float) -> Rows:
    bank = rows(bank_ND)
    for row, v in zip(rows_B.tolist(), rows(v_BD), strict=True):
        moved = [momentum * old + (1 - momentum) * new for old, new in zip(bank[row], v, strict=True)]
        length = math.sqrt(sum(value**2 for value in moved))
        bank[row] = [value / length for value in moved]
    return bank
