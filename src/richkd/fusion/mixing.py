"""Ways of mixing teachers' log-probabilities ℓ_m into fused logits; pure, and fitted elsewhere.

Fused logits are log-probabilities up to a constant of each image. A logarithmic pool multiplies teachers'
probabilities, so that each can veto; a linear pool averages them, so that each can vouch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


class Mixing(Protocol):
    """From the log-probabilities (B, C) of each teacher to fused logits (B, C)."""

    def __call__(self, logs: Sequence[Tensor]) -> Tensor: ...


@dataclass(frozen=True)
class LogPool:
    """``Σ_m w_m · ℓ_m``, the logarithmic opinion pool; w on the simplex, or free to sharpen the result."""

    weights: tuple[float, ...]

    def __call__(self, logs: Sequence[Tensor]) -> Tensor:
        return torch.stack([w * log_BC for w, log_BC in zip(self.weights, logs, strict=True)]).sum(dim=0)


@dataclass(frozen=True)
class LinearPool:
    """``log Σ_m w_m · exp ℓ_m``, the linear opinion pool; w on the simplex."""

    weights: tuple[float, ...]

    def __call__(self, logs: Sequence[Tensor]) -> Tensor:
        # A teacher of no weight must not turn log 0 + −∞ into NaN.
        heard = [(w, log_BC) for w, log_BC in zip(self.weights, logs, strict=True) if w > 0]
        return torch.stack([log_BC + math.log(w) for w, log_BC in heard]).logsumexp(dim=0)


@dataclass(frozen=True)
class PerClass:
    """``Σ_m w_mc · ℓ_m``: the logarithmic pool with weights of its own for each class."""

    weights: tuple[tuple[float, ...], ...]

    def __call__(self, logs: Sequence[Tensor]) -> Tensor:
        weights_MC = torch.tensor(self.weights, dtype=logs[0].dtype, device=logs[0].device)
        fused_BC: Tensor = (weights_MC[:, None] * torch.stack(list(logs))).sum(dim=0)
        return fused_BC


@dataclass(frozen=True)
class Gate:
    """``Σ_m w_m · exp(b_m · (h_m − ½)) · ℓ_m``: a teacher that is sure of an image counts for more there.

    h_m is `sureness`, 0 for a uniform answer and 1 for a certain one. With all b zero it is a
    logarithmic pool; ``b_m = 1, w_m = 1/M`` is the rule that nothing has to be fitted for.
    """

    weights: tuple[float, ...]
    slopes: tuple[float, ...]

    def __call__(self, logs: Sequence[Tensor]) -> Tensor:
        weighted = []
        for w, b, log_BC in zip(self.weights, self.slopes, logs, strict=True):
            weight_B1: Tensor = w * torch.exp(b * (sureness(log_BC) - 0.5))[:, None]
            weighted.append(weight_B1 * log_BC)
        return torch.stack(weighted).sum(dim=0)


def sureness(log_BC: Tensor) -> Tensor:
    """One minus the entropy over its largest, ``1 + Σ_c p_c · ℓ_c / log C``, of each image: in [0, 1]."""
    probs_BC = log_BC.exp()
    entropy_B: Tensor = -torch.special.xlogy(probs_BC, probs_BC).sum(dim=1)
    return (1 - entropy_B / math.log(log_BC.shape[1])).clamp(0, 1)
