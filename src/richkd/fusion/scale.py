"""Put the outputs of all teachers on one scale: logits or cosine similarities to log-probabilities.

The logits of a classifier differ by several units within an image, the cosine similarities of a CLIP model
by a few hundredths. They must be converted to log-probabilities before they can be mixed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from richkd.core.numerics import at_least_fp32
from richkd.metrics.multipliers import FLAT


@dataclass(frozen=True)
class Scale:
    """``log softmax(multiplier · z)``, where z can first be standardized within each image.

    The multiplier is 1 for the scale ``raw``, the CLIP model's own factor for ``logit-scale``, and one over
    a temperature fitted on held-out images for ``temperature``. Standardized logits, ``(z − mean) / std``
    over the classes of an image, no longer show on which images the teacher is more confident.

    Example:
        >>> import torch
        >>> cosines_BC = torch.tensor([[0.30, 0.25]])
        >>> [round(p, 2) for p in Scale()(cosines_BC).exp()[0].tolist()]
        [0.51, 0.49]
        >>> [round(p, 2) for p in Scale(multiplier=100.0)(cosines_BC).exp()[0].tolist()]
        [0.99, 0.01]
    """

    multiplier: float = 1.0
    standardized: bool = False

    def __call__(self, logits_BC: Tensor) -> Tensor:
        return (self.multiplier * self.prepared(logits_BC)).log_softmax(dim=1)

    def prepared(self, logits_BC: Tensor) -> Tensor:
        """The logits before multiplication: at least float32, and standardized if so configured."""
        logits_BC = at_least_fp32(logits_BC)
        return standardized(logits_BC) if self.standardized else logits_BC


def standardized(logits_BC: Tensor) -> Tensor:
    """``(z − mean) / std`` over the classes of each image; zero where all logits of an image are equal.

    The standard deviation is the population one (divisor C).

    Example:
        >>> import torch
        >>> standardized(torch.tensor([[1.0, 3.0], [5.0, 5.0]])).tolist()
        [[-1.0, 1.0], [0.0, 0.0]]
    """
    centered_BC = logits_BC - logits_BC.mean(dim=1, keepdim=True)
    std_B1 = centered_BC.square().mean(dim=1, keepdim=True).sqrt()
    flat_B1 = std_B1 <= FLAT * logits_BC.abs().amax(dim=1, keepdim=True)
    return (centered_BC / std_B1.masked_fill(flat_B1, 1.0)).masked_fill(flat_B1, 0.0)


def on_scales(scales: Sequence[Scale], logits: Sequence[Tensor]) -> list[Tensor]:
    """Apply the scale of each teacher to its logits (B, C); returns log-probabilities per teacher.

    Raises:
        ValueError: the number of scales differs from the number of teachers.

    Example:
        >>> import torch
        >>> (log_BC,) = on_scales([Scale()], [torch.zeros(1, 2)])
        >>> log_BC.exp().tolist()
        [[0.5, 0.5]]
    """
    return [scale(logits_BC) for scale, logits_BC in zip(scales, logits, strict=True)]
