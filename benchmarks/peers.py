"""A peer's step of knowledge distillation on the same pair: the distillation task of timm."""

from __future__ import annotations

from contextlib import suppress
from itertools import cycle

import torch
from steps import BATCHES, CPU, Call
from torch import nn, optim

from richkd.config.schema import Config
from richkd.data.order import TrainingOrder
from richkd.data.views import render
from richkd.pipeline.assemble import assemble
from richkd.teachers.vision import VisionTeacher

LogitDistillationTask: type[nn.Module] | None = None
with suppress(ImportError):  # timm has it from 1.0.23 on
    from timm.task import LogitDistillationTask


def timm_step(config: Config) -> Call | None:
    """A step of timm's task as its training script takes it; None where this timm has no such task.

    It gets our pixels, our memory layout and torch's own optimizer, so that what differs is the step.
    """
    if LogitDistillationTask is None:
        return None
    parts = assemble(config, CPU)
    teacher = parts.teachers[0].uncached
    assert isinstance(teacher, VisionTeacher)
    student, autocast = parts.student, parts.speed.autocast
    terms, settings = {spec.label: spec.config for spec in parts.specs}, config.optim
    task = LogitDistillationTask(
        student.model,
        teacher.network.model,
        criterion=nn.CrossEntropyLoss(),
        task_loss_weight=terms["ce"].weight,
        distill_loss_weight=terms["kd"].weight,
        temperature=parts.temperature,
        verbose=False,
    )
    task.to(memory_format=torch.channels_last).train()
    optimizer = optim.SGD(
        student.model.parameters(),
        settings.lr,
        momentum=settings.momentum,
        weight_decay=settings.weight_decay,
    )
    store = parts.stores.training
    assert store is not None
    groups = cycle(
        TrainingOrder(len(store.split), config.train.batch_size, config.train.seed).epoch(0)[:BATCHES]
    )

    def step() -> float:
        (batch,) = store.batches([next(groups)])
        batch = batch.to(CPU)
        views = parts.augmentation.draw(config.train.seed, 0, batch.index_B)
        pixels = render(batch.pixels_BHWC, views, student.size, student.mean, student.std)
        with torch.autocast("cpu", autocast, enabled=autocast is not None):
            loss = task(pixels, batch.labels_B)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return float(loss.detach())

    return step
