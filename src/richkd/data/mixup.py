"""Mixup: pairs of images are mixed pixel by pixel, and their targets are mixed with the same weight.

Cross-entropy and, up to a constant, KL divergence are linear in the target. For such a loss, the loss of a
mix is the mix of two losses: with the first image's target, and with its partner's. Other losses get a mixed
target.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from richkd.core.numerics import at_least_fp32
from richkd.core.seeds import mix_seed
from richkd.core.types import Batch, Output, Target


@dataclass(frozen=True)
class Mix:
    """Each image keeps the weight ``share``, at least one half; the rest is its partner (Zhang et al. 2018).

    ``partner_B`` holds the partners' positions in the batch. It stays on the CPU.
    """

    share: float
    partner_B: Tensor

    def pixels(self, pixels_B3HW: Tensor) -> Tensor:
        """Mixed images.

        Example:
            >>> mix = Mix(0.75, torch.tensor([1, 0]))
            >>> mix.pixels(torch.tensor([0.0, 1.0])[:, None, None, None]).flatten().tolist()
            [0.25, 0.75]
        """
        at_B = self.partner_B.to(pixels_B3HW.device, non_blocking=True)
        return torch.lerp(pixels_B3HW[at_B], pixels_B3HW, self.share)

    def batch(self, batch: Batch) -> Batch:
        """The partner of each image."""
        return batch.at(self.partner_B)

    def partners(self, target: Target | None) -> Target | None:
        """The target of each image's partner."""
        return None if target is None else target.at(self.partner_B)

    def target(self, target: Target | None) -> Target | None:
        """The mixed target: probabilities, features, maps and weights are each mixed.

        Fused logits become ``log(share · softmax(z) + (1 − share) · softmax(z_partner))``.
        """
        if target is None:
            return None
        other = target.at(self.partner_B)
        pair = zip(target.teachers, other.teachers, strict=True)
        weight_B = None
        if target.weight_B is not None and other.weight_B is not None:
            weight_B = torch.lerp(other.weight_B, target.weight_B, self.share)
        return replace(
            target,
            logits_BC=self._logits(target.logits_BC, other.logits_BC),
            teachers=tuple(self._output(first, second) for first, second in pair),
            weight_B=weight_B,
        )

    def _output(self, first: Output, second: Output) -> Output:
        maps = zip(first.maps, second.maps, strict=True)
        return Output(
            self._logits(first.logits_BC, second.logits_BC),
            torch.lerp(second.feats_BF, first.feats_BF, self.share),
            tuple(torch.lerp(other, own, self.share) for own, other in maps),
        )

    def _logits(self, first_BC: Tensor, second_BC: Tensor) -> Tensor:
        logs = [at_least_fp32(z_BC).log_softmax(dim=1) for z_BC in (first_BC, second_BC)]
        weights = torch.tensor([self.share, 1 - self.share], dtype=logs[0].dtype, device=logs[0].device).log()
        return torch.stack([logs[0] + weights[0], logs[1] + weights[1]]).logsumexp(dim=0)


def draw_mix(alpha: float, images: int, seed: int, step: int) -> Mix:
    """Partners and weight of a step, a function of (seed, step); weight ~ Beta(alpha, alpha).

    Example:
        >>> mix = draw_mix(0.4, 4, seed=0, step=0)
        >>> 0.5 <= mix.share <= 1, sorted(mix.partner_B.tolist())
        (True, [0, 1, 2, 3])
    """
    random = np.random.default_rng(mix_seed(seed, "mixup", step))
    share = random.beta(alpha, alpha)
    return Mix(max(share, 1 - share), torch.from_numpy(random.permutation(images)))
