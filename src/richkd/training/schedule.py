"""The learning rate as a pure function of the step, so that nothing of it needs saving."""

from __future__ import annotations

import math

from richkd.config.schema import OptimConfig


def learning_rate(config: OptimConfig, step: int, steps_per_epoch: int, epochs: int) -> float:
    """The learning rate of a step.

    Linear warm-up from lr / warm-up steps; then either constant, times ``gamma`` at each milestone
    (``milestones`` are shares of the run; the paper's 150, 180 and 210 of 240 epochs are .625, .75 and
    .875), or half a cosine from lr to zero. Milestones fall on whole epochs.
    """
    total = steps_per_epoch * epochs
    warmup = round(config.warmup_epochs * steps_per_epoch)
    if step < warmup:
        return config.lr * (step + 1) / warmup
    if config.schedule == "cosine":
        return config.lr * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))
    epoch = step // steps_per_epoch
    passed = sum(epoch >= round(milestone * epochs) for milestone in config.milestones)
    return config.lr * config.gamma**passed
