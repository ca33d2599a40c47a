"""Mixup and CutMix: pairs of images are mixed, and their targets are mixed with the same weight.

Mixup averages the two images pixel by pixel; CutMix puts a box of one into the other (`richkd.data.cutmix`).
The images of a pair are neighbors in the batch, whose order is random. All pairs of a step have one share.

Cross-entropy and, up to a constant, KL divergence are linear in the target. For such a loss, the loss of a
mix is the mix of two losses: with the first image's target, and with its partner's. Other losses get a mixed
target.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from richkd.config.schema import AugmentConfig
from richkd.core.device import moved
from richkd.core.numerics import at_least_fp32
from richkd.core.seeds import mix_seed
from richkd.core.types import Batch, Output, Target
from richkd.data.cutmix import Box, draw_box


@dataclass(frozen=True)
class Mix:
    """Each image keeps the weight ``share``, at least one half; the rest is its partner (Zhang et al. 2018).

    ``partner_B`` holds the partners' positions in the batch. It stays on the CPU. With a ``box`` (CutMix),
    the share is the image's fraction of the area; without it, it is the weight of every pixel.
    """

    share: float
    partner_B: Tensor
    box: Box | None = None

    def of(self, images: int) -> Mix:
        """The same mix for another number of images, such as those of all processes."""
        return replace(self, partner_B=partners_of(images))

    def pixels(self, pixels_B3HW: Tensor) -> Tensor:
        """Mixed images.

        Example:
            >>> mix = Mix(0.75, torch.tensor([1, 0]))
            >>> mix.pixels(torch.tensor([0.0, 1.0])[:, None, None, None]).flatten().tolist()
            [0.25, 0.75]
        """
        at_B = moved(self.partner_B, pixels_B3HW.device)
        if self.box is not None:
            return self.box.pixels(pixels_B3HW, pixels_B3HW[at_B])
        return torch.lerp(pixels_B3HW[at_B], pixels_B3HW, self.share)

    def batch(self, batch: Batch) -> Batch:
        """The partner of each image."""
        return batch.at(self.partner_B)

    def partners(self, target: Target | None) -> Target | None:
        """The target of each image's partner."""
        return None if target is None else target.at(self.partner_B)

    def target(self, target: Target | None) -> Target | None:
        """The mixed target: probabilities, features, maps and weights are each mixed.

        Logits become ``log(share · softmax(z) + (1 − share) · softmax(z_partner))``.
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
            logs=tuple(
                self._logits(first, second) for first, second in zip(target.logs, other.logs, strict=True)
            ),
        )

    def _output(self, first: Output, second: Output) -> Output:
        maps = zip(first.maps, second.maps, strict=True)
        return Output(
            self._logits(first.logits_BC, second.logits_BC),
            torch.lerp(second.feats_BF, first.feats_BF, self.share),
            tuple(torch.lerp(second_map, first_map, self.share) for first_map, second_map in maps),
        )

    def _logits(self, first_BC: Tensor, second_BC: Tensor) -> Tensor:
        logs = [at_least_fp32(z_BC).log_softmax(dim=1) for z_BC in (first_BC, second_BC)]
        # The share of the second image can be zero.
        log_first, log_second = (
            math.log(share) if share else -math.inf for share in (self.share, 1 - self.share)
        )
        return torch.logaddexp(logs[0] + log_first, logs[1] + log_second)


def partners_of(images: int) -> Tensor:
    """The position of each image's partner: 2k and 2k + 1 are a pair, the last three of an odd number
    a cycle.

    A batch may be divided wherever an even number of images lies before the cut and no single image behind it
    (`richkd.data.shares.cut`). No pair is divided then.

    Example:
        >>> partners_of(4).tolist(), partners_of(5).tolist(), partners_of(1).tolist()
        ([1, 0, 3, 2], [1, 0, 3, 4, 2], [0])
    """
    partner_B = torch.arange(images) ^ 1
    if images % 2:
        partner_B[-3:] = torch.arange(max(0, images - 3), images).roll(-1)
    return partner_B


def draw_mix(augment: AugmentConfig, shape: Sequence[int], seed: int, step: int) -> Mix | None:
    """The mix of a step, a function of (seed, step); None if the settings ask for no mixing.

    If they ask for mixup and CutMix, each step has one of them, CutMix with the probability
    ``augment.mixup_switch_prob``.

    Args:
        augment: settings of augmentation.
        shape: shape of the student's input, B × 3 × H × W.
        seed: seed of the run.
        step: number of the step.

    Example:
        >>> augment = AugmentConfig(mixup_alpha=0.4, cutmix_alpha=1.0)
        >>> mixes = [draw_mix(augment, (4, 3, 8, 8), seed=0, step=step) for step in range(5)]
        >>> ["mixup" if mix.box is None else "CutMix" for mix in mixes]
        ['CutMix', 'mixup', 'CutMix', 'CutMix', 'CutMix']
        >>> draw_mix(AugmentConfig(), (4, 3, 8, 8), seed=0, step=0) is None
        True
    """
    images, _, height, width = shape
    if augment.cutmix_alpha and (not augment.mixup_alpha or _switches(augment.mixup_switch_prob, seed, step)):
        return draw_cutmix(augment.cutmix_alpha, images, (height, width), seed, step)
    if augment.mixup_alpha:
        return draw_mixup(augment.mixup_alpha, images, seed, step)
    return None


def _switches(probability: float, seed: int, step: int) -> bool:
    return bool(np.random.default_rng(mix_seed(seed, "mixup or cutmix", step)).random() < probability)


def draw_mixup(alpha: float, images: int, seed: int, step: int) -> Mix:
    """Partners and weight of a step; the weight is a function of (seed, step), ~ Beta(alpha, alpha).

    Example:
        >>> mix = draw_mixup(0.4, 4, seed=0, step=0)
        >>> 0.5 <= mix.share <= 1, mix.partner_B.tolist()
        (True, [1, 0, 3, 2])
    """
    random = np.random.default_rng(mix_seed(seed, "mixup", step))
    share = random.beta(alpha, alpha)
    return Mix(max(share, 1 - share), partners_of(images))


def draw_cutmix(alpha: float, images: int, size: tuple[int, int], seed: int, step: int) -> Mix:
    """Partners and box of a step for images of height × width; the box is a function of (seed, step).

    Example:
        >>> mix = draw_cutmix(1.0, 4, (8, 8), seed=0, step=0)
        >>> mix.share == mix.box.share, mix.partner_B.tolist()
        (True, [1, 0, 3, 2])
    """
    random = np.random.default_rng(mix_seed(seed, "cutmix", step))
    box = draw_box(alpha, *size, random)
    return Mix(box.share, partners_of(images), box)
