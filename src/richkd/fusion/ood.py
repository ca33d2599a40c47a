"""How far an expert is to be believed of an image that may be unlike any that it was tried on.

Unlabelled images come from anywhere. What an expert says of one that is stranger to it than nearly all
held-out images is tempered towards saying nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from richkd.fusion.scale import Scale


@dataclass(frozen=True)
class Trust:
    """``t_m = min(1, share of held-out images that are as strange to expert m, or stranger, / distrust)``.

    An image is the stranger to an expert the lower its `energy` (Liu et al. 2020, "Energy-based
    out-of-distribution detection"; for cosines it is close to the largest, which Ming et al. 2022 use).

    Attributes:
        lowest: for each expert the energies of the strangest held-out images, ``distrust`` of them all, in
            rising order.
    """

    lowest: tuple[tuple[float, ...], ...]

    def __call__(self, scales: Sequence[Scale], logits: Sequence[Tensor], known_B: Tensor) -> list[Tensor]:
        """t in [0, 1] of each expert and image (B); 1 for ``known_B``, whose place in the data is given."""
        trusts = []
        for tail, scale, logits_BC in zip(self.lowest, scales, logits, strict=True):
            tail_K = torch.tensor(tail, dtype=torch.float64, device=logits_BC.device)
            energy_B = energy(scale, logits_BC).double()
            stranger_B = torch.searchsorted(tail_K, energy_B, right=True)
            trusts.append((stranger_B / len(tail)).masked_fill(known_B, 1.0).to(logits_BC.dtype))
        return trusts


def energy(scale: Scale, logits_BC: Tensor) -> Tensor:
    """``log Σ_c exp z_c`` of each image (B), z on the expert's scale: high where it finds a class likely."""
    return (scale.multiplier * scale.prepared(logits_BC)).logsumexp(dim=1)


def fit_trust(scales: Sequence[Scale], logits: Sequence[Tensor], distrust: float) -> Trust:
    """The energies below which an expert counts less: those of the share ``distrust`` of held-out images."""
    kept = math.ceil(distrust * len(logits[0]))
    lowest = []
    for scale, logits_NC in zip(scales, logits, strict=True):
        lowest.append(tuple(energy(scale, logits_NC).double().sort().values[:kept].tolist()))
    return Trust(tuple(lowest))
