"""One scale for teachers' features, before they are mixed.

A classifier's pooled features are positive and differ widely in size, a CLIP's lie on a sphere, bunched
around their mean. Standardized, no teacher and no dimension outweighs another by its units alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from richkd.core.numerics import at_least_fp32

# A variance this small beside the largest is rounding of a dimension that does not vary.
FLAT_VARIANCE = 1e-12


@dataclass(frozen=True)
class FeatureScale:
    """``(x − mean) @ matrix``, fitted on training images by `fit_feature_scale`."""

    mean_F: Tensor
    matrix_FF: Tensor

    def __call__(self, feats_BF: Tensor) -> Tensor:
        feats_BF = at_least_fp32(feats_BF)
        return (feats_BF - self.mean_F.to(feats_BF)) @ self.matrix_FF.to(feats_BF)


def fit_feature_scale(feats_NF: Tensor, *, isotropic: bool) -> FeatureScale:
    """Zero mean and unit variance in every dimension, over these images.

    Not ``isotropic``, each dimension is divided by its own standard deviation, which also raises dimensions
    that hardly vary. ``isotropic``, all are rotated until their variances are equal and divided by one
    number, so that distances keep their proportions: the standardization that Ranzinger et al. 2024
    (arXiv 2410.01680) call PHI-S. They rotate by a Hadamard matrix, which few widths have; `equalizing` finds
    a rotation of any width. Dimensions without variance become zero.
    """
    exact_NF = feats_NF.double()
    mean_F = exact_NF.mean(dim=0)
    covariance_FF = torch.cov(exact_NF.T, correction=0).reshape(len(mean_F), -1)
    variance_F = covariance_FF.diagonal()
    flat_F = variance_F <= FLAT_VARIANCE * variance_F.max()
    if not isotropic:
        return FeatureScale(mean_F, torch.diag(variance_F.rsqrt().masked_fill(flat_F, 0.0)))
    mean_variance = float(variance_F.mean())
    if mean_variance == 0:
        return FeatureScale(mean_F, torch.zeros_like(covariance_FF))
    rotation_FF = torch.from_numpy(equalizing(covariance_FF.numpy()))
    return FeatureScale(mean_F, rotation_FF.T / mean_variance**0.5)


def equalizing(covariance_FF: NDArray[np.float64]) -> NDArray[np.float64]:
    """A rotation Q for which all entries of the diagonal of ``Q Σ Qᵀ`` are equal.

    Each of at most F − 1 plane rotations takes a dimension of too little variance and one of too much, and
    turns them until the first has the mean (Bendel and Mickey 1978).
    """
    turned_FF = covariance_FF.copy()
    rotation_FF = np.eye(len(turned_FF))
    mean = float(np.trace(turned_FF)) / len(turned_FF)
    left = list(range(len(turned_FF)))
    while len(left) > 1:
        variances = turned_FF[left, left]
        low, high = left[int(variances.argmin())], left[int(variances.argmax())]
        a, b, c = turned_FF[low, low] - mean, turned_FF[high, high] - mean, turned_FF[low, high]
        if a < 0 < b:
            # a + 2ct + bt² = 0, whose roots are real because a and b differ in sign.
            tangent = (-c + np.copysign(np.sqrt(c * c - a * b), -c)) / b
            cosine = 1 / np.sqrt(1 + tangent * tangent)
            plane = cosine * np.array([[1, tangent], [-tangent, 1]])
            pair = [low, high]
            turned_FF[pair] = plane @ turned_FF[pair]
            turned_FF[:, pair] = turned_FF[:, pair] @ plane.T
            rotation_FF[pair] = plane @ rotation_FF[pair]
        left.remove(low)
    return rotation_FF
