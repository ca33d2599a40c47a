"""Normalize embeddings to unit length, and fuse the embeddings, or the losses, of several teachers."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from richkd.core.errors import ConfigError
from richkd.core.numerics import at_least_fp32

# A row shorter than this is treated as zero: in float32 its direction is only rounding error.
_SHORTEST = 1e-12


def normalize(x_BD: Tensor) -> Tensor:
    """Scale each row to unit L2 norm, x/‖x‖, in float32 or higher.

    A row shorter than 1e-12 becomes a row of zeros and receives a gradient of zero. Dividing by a small
    constant instead would multiply its gradient by 1e12.

    Example:
        >>> normalize(torch.tensor([[3.0, 4.0], [0.0, 0.0]], dtype=torch.float64)).tolist()
        [[0.6, 0.8], [0.0, 0.0]]
    """
    x_BD = at_least_fp32(x_BD)
    norm_B1 = torch.linalg.vector_norm(x_BD, dim=-1, keepdim=True)
    short_B1 = norm_B1 < _SHORTEST
    return torch.where(short_B1, 0.0, x_BD / norm_B1.masked_fill(short_B1, 1.0))


def fuse_features(feats: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """Fuse the unit-norm embeddings of the teachers (each B × D) into one unit-norm target (B × D).

    normalized(Σ_m λ_m · f_m). For two teachers this is f_F = λ·f_T + (1−λ)·f_C of the paper, after the
    projection to one width. The result is normalized again because the contrastive loss compares unit
    vectors. Source: RichKD (arXiv 2511.09286), fusion of features.

    Args:
        feats: the embeddings of each teacher.
        weights: λ_m of each teacher, in [0, 1], with the sum 1.

    Raises:
        ConfigError: the numbers of weights and teachers differ, a weight is negative, the weights do not sum
            to one, or the shapes of the embeddings differ.

    Example:
        >>> feats = [torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])]
        >>> [round(x, 4) for x in fuse_features(feats, [0.5, 0.5])[0].tolist()]
        [0.7071, 0.7071]
    """
    if not feats or len(feats) != len(weights):
        raise ConfigError(
            "Argument 'weights' must hold one weight for each teacher's features",
            got=f"{len(weights)} weights for {len(feats)} teachers",
            fix="pass one feature weight per teacher, for at least one teacher.",
        )
    # The comparison is negated so that NaN is rejected, too.
    if not all(weight >= 0.0 for weight in weights) or not math.isclose(sum(weights), 1.0, abs_tol=1e-6):
        raise ConfigError(
            "Argument 'weights' must hold weights in [0, 1] that sum to one",
            got=f"{list(weights)}, with the sum {sum(weights):.6g}",
            fix="divide each weight by the sum; for two teachers use λ and 1 − λ.",
        )
    shapes = [tuple(feat.shape) for feat in feats]
    if len(set(shapes)) > 1:
        raise ConfigError(
            "Argument 'feats' must hold features of one shape (images × width)",
            got=", ".join(str(shape) for shape in shapes),
            fix="project the features of all teachers to the same width before the fusion.",
        )
    fused_BD = sum(
        (weight * at_least_fp32(feat) for weight, feat in zip(weights[1:], feats[1:], strict=True)),
        start=weights[0] * at_least_fp32(feats[0]),
    )
    return normalize(fused_BD)


def mean_over_teachers(losses: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """``Σ_m λ_m · loss_m``: one loss for each teacher of a target, weighted as its features are.

    For losses whose teachers have features of different widths, which cannot be added.

    Args:
        losses: the loss of each teacher.
        weights: λ_m of each teacher (``Target.feature_weights``).

    Example:
        >>> float(mean_over_teachers([torch.tensor(1.0), torch.tensor(3.0)], [0.75, 0.25]))
        1.5
    """
    total = weights[0] * losses[0]
    for weight, loss in zip(weights[1:], losses[1:], strict=True):
        total = total + weight * loss
    return total
