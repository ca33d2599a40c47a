"""Unit-norm embeddings, and their fusion across teachers."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from richkd.core.errors import ConfigError
from richkd.core.numerics import at_least_fp32

# Below this length a row has no direction that float32 could tell from rounding.
_SHORTEST = 1e-12


def normalize(x_BD: Tensor) -> Tensor:
    """Rows scaled to unit L2 norm, x/‖x‖, in float32 or higher.

    A row shorter than 1e-12 has no direction: it becomes a row of zeros and receives a gradient of zero,
    where dividing by a tiny constant would multiply its gradient by 1e12.
    """
    x_BD = at_least_fp32(x_BD)
    norm_B1 = torch.linalg.vector_norm(x_BD, dim=-1, keepdim=True)
    short_B1 = norm_B1 < _SHORTEST
    return torch.where(short_B1, 0.0, x_BD / norm_B1.masked_fill(short_B1, 1.0))


def fuse_features(feats: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """One unit-norm target embedding (B × D) from the teachers' unit-norm embeddings (each B × D).

    normalized(Σ_m λ_m · f_m): the paper's f_F = λ·f_T + (1−λ)·f_C after a projection to one width, for any
    number of teachers. ``weights`` are the λ_m, in [0, 1] and summing to one. The re-normalization puts the
    target back on the sphere on which contrast compares it. Source: RichKD (arXiv 2511.09286), fusion of
    features.

    Raises:
        ConfigError: where weights and features differ in number, a weight is negative, the weights do not
            sum to one, or the features differ in shape.
    """
    if not feats or len(feats) != len(weights):
        raise ConfigError(
            "Argument 'weights' must hold one weight for each teacher's features",
            got=f"{len(weights)} weights for {len(feats)} teachers",
            fix="give as many feature weights as there are teachers, at least one.",
        )
    # Written so that NaN fails too.
    if not all(weight >= 0.0 for weight in weights) or not math.isclose(sum(weights), 1.0, abs_tol=1e-6):
        raise ConfigError(
            "Argument 'weights' must hold weights in [0, 1] that sum to one",
            got=f"{list(weights)}, with the sum {sum(weights):.6g}",
            fix="divide each weight by their sum; for two teachers use λ and 1 − λ.",
        )
    shapes = [tuple(feat.shape) for feat in feats]
    if len(set(shapes)) > 1:
        raise ConfigError(
            "Argument 'feats' must hold features of one shape (images × width)",
            got=", ".join(str(shape) for shape in shapes),
            fix="project each teacher's features to one width before fusing them.",
        )
    fused_BD = sum(
        (weight * at_least_fp32(feat) for weight, feat in zip(weights[1:], feats[1:], strict=True)),
        start=weights[0] * at_least_fp32(feats[0]),
    )
    return normalize(fused_BD)
