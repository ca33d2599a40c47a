"""One scale for all teachers: from logits, or cosines, to log-probabilities.

A classifier's logits spread by several units within an image, a CLIP's cosines by a few hundredths.
Whatever is mixed must first mean the same; log-probabilities do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from richkd.core.numerics import at_least_fp32

# Spread within an image below which it is taken for rounding.
FLAT = 1e-7


@dataclass(frozen=True)
class Scale:
    """``log softmax(multiplier · z)``, where z may first be standardized within each image.

    A multiplier of 1 is ``raw``, a CLIP's own factor is ``logit-scale``, and one over a temperature
    that was fitted on held-out images is ``calibrated``. Standardized logits, ``(z − mean) / std`` over
    the classes of an image, forget how sure a teacher is of one image against another.
    """

    multiplier: float = 1.0
    standardized: bool = False

    def __call__(self, logits_BC: Tensor) -> Tensor:
        return (self.multiplier * self.prepared(logits_BC)).log_softmax(dim=1)

    def prepared(self, logits_BC: Tensor) -> Tensor:
        """The logits before their multiplier."""
        logits_BC = at_least_fp32(logits_BC)
        return standardized(logits_BC) if self.standardized else logits_BC


def standardized(logits_BC: Tensor) -> Tensor:
    """``(z − mean) / std`` over the classes of each image; zero where an image's logits are all equal."""
    centered_BC = logits_BC - logits_BC.mean(dim=1, keepdim=True)
    std_B1 = centered_BC.square().mean(dim=1, keepdim=True).sqrt()
    flat_B1 = std_B1 <= FLAT * logits_BC.abs().amax(dim=1, keepdim=True)
    return (centered_BC / std_B1.masked_fill(flat_B1, 1.0)).masked_fill(flat_B1, 0.0)


def on_scales(scales: Sequence[Scale], logits: Sequence[Tensor]) -> list[Tensor]:
    """Each teacher's logits through its scale."""
    return [scale(logits_BC) for scale, logits_BC in zip(scales, logits, strict=True)]
