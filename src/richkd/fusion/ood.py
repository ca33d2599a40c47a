"""Reduce the weight of a teacher on unlabeled images that are out of distribution for it.

Unlabeled images can come from any source. If the energy of a teacher's logits on an image is lower than on
almost all held-out images, the image is likely out of distribution and the teacher gets less weight there.
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
    """Weight of a teacher per image: ``w_m = min(1, q_m / ood_quantile)``.

    q_m is the fraction of held-out images whose `energy` is at most that of the image. A lower energy means
    that the image is more likely out of distribution (Liu et al. 2020, "Energy-based out-of-distribution
    detection"). For a CLIP model the energy is close to the largest scaled cosine similarity, the score of
    Ming et al. 2022.

    Attributes:
        scales: the scale of each teacher, on which its energies are measured.
        lowest: for each teacher, the lowest energies of the held-out images (the fraction ``ood_quantile``
            of them), in ascending order.

    Example:
        >>> weights = OodWeights((Scale(),), lowest=((1.0, 2.0),))
        >>> logits_BC = torch.tensor([[0.0, 0.0], [1.0, 1.0], [9.0, 0.0]])  # energies 0.69, 1.69, 9.0
        >>> unknown_B = torch.zeros(3, dtype=torch.bool)
        >>> weights([logits_BC], unknown_B)[0].tolist()
        [0.0, 0.5, 1.0]
    """

    scales: tuple[Scale, ...]
    lowest: tuple[tuple[float, ...], ...]

    def __call__(self, logits: Sequence[Tensor], known_B: Tensor) -> list[Tensor]:
        """The weight in [0, 1] of each image (B), for each teacher; 1 where ``known_B`` is true.

        Args:
            logits: the logits (B, C) of each teacher.
            known_B: marks images of the labeled data set, which always keep the full weight.
        """
        weights = []
        for tail, scale, logits_BC in zip(self.lowest, self.scales, logits, strict=True):
            tail_K = torch.tensor(tail, dtype=torch.float64, device=logits_BC.device)
            energy_B = energy(scale, logits_BC).double()
            rank_B = torch.searchsorted(tail_K, energy_B, right=True)
            weights.append((rank_B / len(tail)).masked_fill(known_B, 1.0).to(logits_BC.dtype))
        return weights

    def only(self, teachers: slice) -> OodWeights:
        """The weights of some of the teachers."""
        return OodWeights(self.scales[teachers], self.lowest[teachers])


def energy(scale: Scale, logits_BC: Tensor) -> Tensor:
    """Energy score ``log Σ_c exp z_c`` of each image (B), with z on the teacher's scale before the softmax.

    A high value means that the teacher finds at least one class likely.

    Example:
        >>> [round(e, 3) for e in energy(Scale(), torch.tensor([[0.0, 0.0], [9.0, 0.0]])).tolist()]
        [0.693, 9.0]
    """
    return (scale.multiplier * scale.prepared(logits_BC)).logsumexp(dim=1)


def fit_ood_weights(scales: Sequence[Scale], logits: Sequence[Tensor], ood_quantile: float) -> OodWeights:
    """Collect the lowest energies of the held-out images for each teacher; see `OodWeights`.

    Args:
        scales: the scale of each teacher.
        logits: the logits (N, C) of each teacher on the held-out images.
        ood_quantile: fraction in (0, 1] of the held-out images to keep, those with the lowest energies.

    Example:
        >>> logits_NC = torch.tensor([[3.0, -99.0], [1.0, -99.0], [2.0, -99.0], [4.0, -99.0]])
        >>> fit_ood_weights([Scale()], [logits_NC], ood_quantile=0.5).lowest
        ((1.0, 2.0),)
    """
    # Rounded first, because 0.07 · 100 is a little more than 7.
    kept = math.ceil(round(ood_quantile * len(logits[0]), 9))
    lowest = []
    for scale, logits_NC in zip(scales, logits, strict=True):
        lowest.append(tuple(energy(scale, logits_NC).double().sort().values[:kept].tolist()))
    return OodWeights(tuple(scales), tuple(lowest))
