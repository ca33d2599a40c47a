"""The losses of a part of a step: its targets, the input of the student, and random numbers of the step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from richkd.core.device import seed_generators
from richkd.core.seeds import mix_seed
from richkd.core.types import Batch, LossTerms, Target, Targets
from richkd.data.mixup import draw_mix
from richkd.data.shares import Share, shares_of
from richkd.methods.term import Context
from richkd.pipeline.assemble import Parts
from richkd.training.task import Task

Remembered = dict[str, dict[str, Tensor]]


@dataclass(frozen=True)
class PartLosses:
    """Computes targets and losses of the images of a share.

    Attributes:
        parts: the parts of the run.
        task: student and objective.
        steps: number of steps of an epoch.
    """

    parts: Parts
    task: Task
    steps: int

    def targets(self, batch: Batch, step: int) -> dict[str, Target]:
        """The targets of the images for the views that they have in this step."""
        return self.parts.teach(batch.to(self.parts.device), step // self.steps)

    def losses(self, batch: Batch, targets: Targets, share: Share, step: int) -> LossTerms:
        """The loss terms of the images, with gradients."""
        parts, epoch = self.parts, step // self.steps
        batch = batch.to(parts.device)
        pixels = parts.student_pixels(batch, epoch)
        settings = parts.config.train
        mix = draw_mix(parts.config.augment, pixels.shape, settings.seed, step)
        progress = step / (self.steps * settings.epochs)
        place = (share.start + share.first, share.of_step)
        context = Context(step, progress, *place)
        # Dropout draws from PyTorch's global generator. Seeding makes it a function of the step.
        part = () if self.task.is_joint(share) or not share.start else (share.start,)
        seed_generators(mix_seed(settings.seed, "step", step, *part), parts.device)
        autocast = parts.speed.autocast
        with torch.autocast(parts.device.type, autocast, enabled=autocast is not None):
            return cast(LossTerms, self.task(pixels, targets, batch, context, mix, share))

    def attempt(self, batch: Batch, step: int) -> None:
        """Forward and backward pass of some images, to learn whether they fit in memory."""
        (share,) = shares_of(batch.index_B, 1)
        self.task.zero_grad(set_to_none=True)
        torch.autograd.backward(self.losses(batch, self.targets(batch, step), share, step).total)
