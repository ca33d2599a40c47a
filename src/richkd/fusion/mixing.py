"""Functions that mix the log-probabilities ℓ_m of several teachers into fused logits.

The mixings are pure functions of their weights; `richkd.fusion.fit` fits the weights. Fused logits are
log-probabilities up to an additive constant per image, so apply a softmax before reading them as
probabilities.

A logarithmic pool multiplies the teachers' probabilities: one teacher can rule a class out. A linear pool
averages them: one teacher can keep a class likely.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor

from richkd.core.device import constant


class Mixing(Protocol):
    """A function from each teacher's log-probabilities (B, C) to fused logits (B, C).

    Example:
        >>> mixing: Mixing = LogPool(weights=(1.0,))
        >>> mixing([torch.tensor([[0.0, -1.0]])]).tolist()
        [[0.0, -1.0]]
    """

    kind: ClassVar[str]

    def __call__(self, logs: Sequence[Tensor]) -> Tensor: ...


@dataclass(frozen=True)
class LogPool:
    """Logarithmic opinion pool, ``Σ_m w_m · ℓ_m``.

    Weights that sum to 1 give a weighted geometric mean of the probabilities. A larger sum sharpens the
    result, a smaller sum flattens it.

    Example:
        >>> logs = [torch.tensor([[0.8, 0.2]]).log(), torch.tensor([[0.2, 0.8]]).log()]
        >>> [round(p, 3) for p in LogPool((0.5, 0.5))(logs).softmax(dim=1)[0].tolist()]
        [0.5, 0.5]
        >>> [round(p, 3) for p in LogPool((1.0, 0.0))(logs).softmax(dim=1)[0].tolist()]
        [0.8, 0.2]
    """

    kind: ClassVar[str] = "log-pool"
    weights: tuple[float, ...]

    def __call__(self, logs: Sequence[Tensor]) -> Tensor:
        return torch.stack([w * log_BC for w, log_BC in zip(self.weights, logs, strict=True)]).sum(dim=0)


@dataclass(frozen=True)
class LinearPool:
    """Linear opinion pool, ``log Σ_m w_m · exp ℓ_m``, with weights w ≥ 0 that sum to 1.

    Example:
        >>> logs = [torch.tensor([[0.9, 0.1]]).log(), torch.tensor([[0.5, 0.5]]).log()]
        >>> [round(p, 3) for p in LinearPool((0.5, 0.5))(logs).exp()[0].tolist()]
        [0.7, 0.3]
    """

    kind: ClassVar[str] = "linear"
    weights: tuple[float, ...]

    def __call__(self, logs: Sequence[Tensor]) -> Tensor:
        # A weight of zero is left out because it has no logarithm.
        weighted = [(w, log_BC) for w, log_BC in zip(self.weights, logs, strict=True) if w > 0]
        return torch.stack([log_BC + math.log(w) for w, log_BC in weighted]).logsumexp(dim=0)


@dataclass(frozen=True)
class PerClass:
    """Logarithmic pool with separate weights for each class, ``Σ_m w_mc · ℓ_m``; weights are (M, C).

    Example:
        >>> logs = [torch.tensor([[-1.0, -2.0]]), torch.tensor([[-3.0, -4.0]])]
        >>> PerClass(weights=((1.0, 0.0), (0.0, 1.0)))(logs).tolist()
        [[-1.0, -4.0]]
    """

    kind: ClassVar[str] = "per-class"
    weights: tuple[tuple[float, ...], ...]

    def __call__(self, logs: Sequence[Tensor]) -> Tensor:
        flat = tuple(weight for row in self.weights for weight in row)
        weights_MC = constant(flat, logs[0].device, logs[0].dtype).view(len(self.weights), -1)
        fused_BC: Tensor = (weights_MC[:, None] * torch.stack(list(logs))).sum(dim=0)
        return fused_BC


@dataclass(frozen=True)
class Gate:
    """Logarithmic pool that gives a teacher more weight on the images it is confident about.

    ``Σ_m w_m · exp(b_m · (h_m − ½)) · ℓ_m``, where h_m is the `sureness` of teacher m on the image: 0 for
    a uniform output, 1 for a one-hot output. If all slopes b are zero, the gate is a logarithmic pool.
    ``w_m = 1/M, b_m = 1`` is a default that needs no fitting.

    Example:
        >>> logs = [torch.tensor([[0.99, 0.01]]).log(), torch.tensor([[0.3, 0.7]]).log()]
        >>> even = Gate(weights=(0.5, 0.5), slopes=(0.0, 0.0))(logs).softmax(dim=1)
        >>> gated = Gate(weights=(0.5, 0.5), slopes=(1.0, 1.0))(logs).softmax(dim=1)
        >>> bool(gated[0, 0] > even[0, 0])  # the confident teacher gains influence
        True
    """

    kind: ClassVar[str] = "gate"
    weights: tuple[float, ...]
    slopes: tuple[float, ...]

    def __call__(self, logs: Sequence[Tensor]) -> Tensor:
        weighted = []
        for w, b, log_BC in zip(self.weights, self.slopes, logs, strict=True):
            weight_B1: Tensor = w * torch.exp(b * (sureness(log_BC) - 0.5))[:, None]
            weighted.append(weight_B1 * log_BC)
        return torch.stack(weighted).sum(dim=0)


def sureness(log_BC: Tensor) -> Tensor:
    """Confidence (B,) of each image, one minus the normalized entropy: ``1 + Σ_c p_c · ℓ_c / log C``.

    The range is [0, 1]: 0 for a uniform distribution, 1 for a one-hot distribution.

    Args:
        log_BC: log-probabilities; −∞ is allowed.

    Example:
        >>> sureness(torch.tensor([[1.0, 0.0], [0.5, 0.5]]).log()).tolist()
        [1.0, 0.0]
    """
    probs_BC = log_BC.exp()
    entropy_B: Tensor = -torch.special.xlogy(probs_BC, probs_BC).sum(dim=1)
    return (1 - entropy_B / math.log(log_BC.shape[1])).clamp(0, 1)
