"""Standardize the features of the teachers before they are mixed.

The pooled features of a classifier are positive and vary widely in magnitude. The features of a CLIP model
lie on the unit sphere, close to their mean. After standardization no teacher and no dimension dominates only
because of its units.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from richkd.core.numerics import at_least_fp32

# If variance / largest variance of a dimension is below this, the dimension is treated as constant.
FLAT_VARIANCE = 1e-12


@dataclass(frozen=True)
class FeatureScale:
    """Affine map of features, ``(x − mean) @ matrix``; fitted on training images by `fit_feature_scale`.

    The result is float32 or higher.

    Example:
        >>> scale = FeatureScale(torch.tensor([1.0, 2.0]), torch.tensor([[2.0, 0.0], [0.0, 3.0]]))
        >>> scale(torch.tensor([[2.0, 3.0]])).tolist()
        [[2.0, 3.0]]
    """

    mean_F: Tensor
    matrix_FF: Tensor

    def __call__(self, feats_BF: Tensor) -> Tensor:
        feats_BF = at_least_fp32(feats_BF)
        return (feats_BF - self.mean_F.to(feats_BF)) @ self.matrix_FF.to(feats_BF)


def fit_feature_scale(feats_NF: Tensor, *, phi_s: bool) -> FeatureScale:
    """Fit a map that gives every feature dimension zero mean and unit variance over these images.

    Args:
        feats_NF: features of the N training images.
        phi_s: False divides each dimension by its own standard deviation, which also amplifies
            dimensions with little variance; constant dimensions become zero. True rotates the features
            until all dimensions have the same variance, then divides by one number, so that the ratios of
            distances are preserved (PHI-S, Ranzinger et al. 2024, arXiv 2410.01680). PHI-S rotates with a
            Hadamard matrix, which does not exist for every width; `equalizing` finds a rotation for any
            width.

    Example:
        >>> feats_NF = torch.tensor([[0.0, 10.0], [2.0, 30.0]])
        >>> fit_feature_scale(feats_NF, phi_s=False)(feats_NF).tolist()
        [[-1.0, -1.0], [1.0, 1.0]]
    """
    exact_NF = feats_NF.double()
    mean_F = exact_NF.mean(dim=0)
    covariance_FF = torch.cov(exact_NF.T, correction=0).reshape(len(mean_F), -1)
    variance_F = covariance_FF.diagonal()
    flat_F = variance_F <= FLAT_VARIANCE * variance_F.max()
    if not phi_s:
        return FeatureScale(mean_F, torch.diag(variance_F.rsqrt().masked_fill(flat_F, 0.0)))
    mean_variance = float(variance_F.mean())
    if mean_variance == 0:
        return FeatureScale(mean_F, torch.zeros_like(covariance_FF))
    rotation_FF = torch.from_numpy(equalizing(covariance_FF.numpy()))
    return FeatureScale(mean_F, rotation_FF.T / mean_variance**0.5)


def equalizing(covariance_FF: NDArray[np.float64]) -> NDArray[np.float64]:
    """A rotation Q (F, F) that makes all diagonal entries of ``Q Σ Qᵀ`` equal.

    Uses at most F − 1 plane rotations. Each rotates the dimension with the smallest variance and the one
    with the largest variance until the first has the mean variance (Bendel and Mickey 1978).

    Args:
        covariance_FF: the covariance matrix Σ.

    Example:
        >>> covariance_FF = np.diag([1.0, 3.0])
        >>> rotation_FF = equalizing(covariance_FF)
        >>> np.diag(rotation_FF @ covariance_FF @ rotation_FF.T).round(6).tolist()
        [2.0, 2.0]
    """
    rotated_FF = covariance_FF.copy()
    rotation_FF = np.eye(len(rotated_FF))
    mean = float(np.trace(rotated_FF)) / len(rotated_FF)
    left = list(range(len(rotated_FF)))
    while len(left) > 1:
        variances = rotated_FF[left, left]
        low, high = left[int(variances.argmin())], left[int(variances.argmax())]
        a, b, c = rotated_FF[low, low] - mean, rotated_FF[high, high] - mean, rotated_FF[low, high]
        if a < 0 < b:
            # tangent solves a + 2ct + bt² = 0; the roots are real because a and b differ in sign.
            tangent = (-c + np.copysign(np.sqrt(c * c - a * b), -c)) / b
            cosine = 1 / np.sqrt(1 + tangent * tangent)
            plane = cosine * np.array([[1, tangent], [-tangent, 1]])
            pair = [low, high]
            rotated_FF[pair] = plane @ rotated_FF[pair]
            rotated_FF[:, pair] = rotated_FF[:, pair] @ plane.T
            rotation_FF[pair] = plane @ rotation_FF[pair]
        left.remove(low)
    return rotation_FF
