"""The learning rate as a pure function of the step, so that a checkpoint holds no scheduler state."""

from __future__ import annotations

import math

from richkd.config.schema import OptimConfig


def learning_rate(config: OptimConfig, step: int, steps_per_epoch: int, epochs: int) -> float:
    """The learning rate of an optimizer step.

    During the W warm-up steps the rate is ``lr · (step + 1) / W``. After them it follows the schedule:

    - ``step``: ``lr · gamma^k``, where k milestones have passed. Milestones are fractions of the run, rounded
      to whole epochs; the paper's epochs 150, 180 and 210 of 240 are 0.625, 0.75 and 0.875.
    - ``cosine``: ``lr · ½ (1 + cos(π · (step − W) / (total − W)))``, from lr to 0.

    Args:
        config: schedule, peak rate, milestones, gamma and warm-up.
        step: number of the optimizer step, from 0.
        steps_per_epoch: optimizer steps in one epoch.
        epochs: epochs of the run.

    Example:
        >>> config = OptimConfig(lr=0.05, milestones=(0.5,), gamma=0.1)
        >>> [round(learning_rate(config, step, steps_per_epoch=2, epochs=2), 4) for step in range(4)]
        [0.05, 0.05, 0.005, 0.005]
        >>> config = OptimConfig(lr=1.0, schedule="cosine", warmup_epochs=1)
        >>> [round(learning_rate(config, step, steps_per_epoch=2, epochs=2), 4) for step in range(4)]
        [0.5, 1.0, 1.0, 0.5]
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
