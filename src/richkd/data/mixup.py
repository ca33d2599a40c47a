"""Mixup: pairs of images blended pixel by pixel, whose targets are blended in the same shares.

Cross-entropy and, up to a constant, KL divergence are linear in the target, so the loss of a blend is the
blend of two losses: of its first image's target, and of its second's. That holds for any target that fusion
gives, and no method has to know of it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from richkd.core.seeds import mix_seed
from richkd.core.types import Batch, LossTerms, Output, Target


@dataclass(frozen=True)
class Mix:
    """Of each image ``share``, at least a half, and the rest of its partner (Zhang et al. 2018).

    Places of partners in the batch stay on the CPU, as those of images in their split do.
    """

    share: float
    partner_B: Tensor

    def pixels(self, pixels_B3HW: Tensor) -> Tensor:
        at_B = self.partner_B.to(pixels_B3HW.device, non_blocking=True)
        return torch.lerp(pixels_B3HW[at_B], pixels_B3HW, self.share)

    def partners(self, target: Target | None, batch: Batch) -> tuple[Target | None, Batch]:
        """The partners' targets and images, in the order of those that they are blended into."""
        at_B = self.partner_B.to(batch.labels_B.device, non_blocking=True)
        other = batch.at(self.partner_B)
        if target is None:
            return None, other
        teachers = tuple(Output(e.logits_BC[at_B], e.feats_BF[at_B]) for e in target.teachers)
        weight_B = None if target.weight_B is None else target.weight_B[at_B]
        return replace(target, logits_BC=target.logits_BC[at_B], teachers=teachers, weight_B=weight_B), other

    def terms(self, first: LossTerms, second: LossTerms) -> LossTerms:
        """Both losses in the blend's shares; what is remembered is remembered of the larger share."""
        blended = {
            name: torch.lerp(second.terms[name], value, self.share) for name, value in first.terms.items()
        }
        return LossTerms(blended, first.memory)


def draw_mix(strength: float, images: int, seed: int, step: int) -> Mix:
    """Partners and share of a step, a function of (seed, step): share from Beta(strength, strength)."""
    random = np.random.default_rng(mix_seed(seed, "mixup", step))
    share = random.beta(strength, strength)
    return Mix(max(share, 1 - share), torch.from_numpy(random.permutation(images)))
