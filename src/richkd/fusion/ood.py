"""How far a teacher is to be believed of an image that may be unlike any that it was tried on.

Unlabeled images come from anywhere. What a teacher says of one that is stranger to it than nearly all
held-out images is fit_inverse_temperature towards saying nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from richkd.fusion.scale import Scale


@dataclass(frozen=True)
class OodWeights:
    """``w_m = min(1, q_m / ood_quantile)``, q_m the share of held-out images with at most this energy.

    An image is the stranger to a teacher the lower its `energy` (Liu et al. 2020, "Energy-based
    out-of-distribution detection"; for cosines it is close to the largest, which Ming et al. 2022 use).

    Attributes:
        lowest: for each teacher the lowest energies of held-out images, the share ``ood_quantile`` of them,
            in rising order.
    """

    lowest: tuple[tuple[float, ...], ...]

    def __call__(self, scales: Sequence[Scale], logits: Sequence[Tensor], known_B: Tensor) -> list[Tensor]:
        """t in [0, 1] of each teacher and image (B); 1 for ``known_B``, whose place in the data is given."""
        trusts = []
        for tail, scale, logits_BC in zip(self.lowest, scales, logits, strict=True):
            tail_K = torch.tensor(tail, dtype=torch.float64, device=logits_BC.device)
            energy_B = energy(scale, logits_BC).double()
            stranger_B = torch.searchsorted(tail_K, energy_B, right=True)
            trusts.append((stranger_B / len(tail)).masked_fill(known_B, 1.0).to(logits_BC.dtype))
        return trusts


def energy(scale: Scale, logits_BC: Tensor) -> Tensor:
    """``log Σ_c exp z_c`` of each image (B), z on the teacher's scale: high where it finds a class likely."""
    return (scale.multiplier * scale.prepared(logits_BC)).logsumexp(dim=1)


def fit_ood_weights(scales: Sequence[Scale], logits: Sequence[Tensor], ood_quantile: float) -> OodWeights:
    """Energies below which a teacher counts less: the lowest ``ood_quantile`` of those of held-out images."""
    kept = math.ceil(ood_quantile * len(logits[0]))
    lowest = []
    for scale, logits_NC in zip(scales, logits, strict=True):
        lowest.append(tuple(energy(scale, logits_NC).double().sort().values[:kept].tolist()))
    return OodWeights(tuple(lowest))
