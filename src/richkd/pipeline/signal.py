"""How much the student's target differs from that of the vision teachers, on views of training images.

On images that a vision teacher was trained on, it is nearly always right and confident. So a fused target
differs less from it there than on held-out images, and only training views show what the student learns from.
"""

from __future__ import annotations

import torch
from torch import Tensor

from richkd.core.types import Output
from richkd.data.order import TrainingOrder
from richkd.data.stores import Stores
from richkd.data.views import Augmentation
from richkd.fusion.fusion import TargetShift, first_alone, measure_target_shift
from richkd.pipeline.targets import TargetSource

# Images of the first steps of epoch 0. A run shows them to its teachers, so their outputs may be stored.
SAMPLE = 1024


def training_outputs(
    source: TargetSource,
    stores: Stores,
    augmentation: Augmentation,
    order: TrainingOrder,
    device: torch.device,
) -> tuple[list[Output], Tensor]:
    """Outputs of every teacher for the first steps of training, and the labels of the images.

    Args:
        augmentation: how training images are augmented.
        order: the images of each step, for a single process.
    """
    training = stores.training
    assert training is not None
    groups = order.epoch(0)[: -(-SAMPLE // order.images_of_step)]
    views = [augmentation.draw(order.seed, 0, index_B) for index_B in groups]
    outputs: list[list[Output]] = [[] for _ in source.teachers]
    with torch.inference_mode():
        for batch, view in zip(training.batches(groups, views), views, strict=True):
            for teacher, collected in zip(source.teachers, outputs, strict=True):
                collected.append(teacher.outputs(batch.to(device), view).cpu())
    labels_N = training.split.labels_N[torch.cat(groups)]
    return [Output.cat(collected) for collected in outputs], labels_N


def measure_signal(
    source: TargetSource,
    stores: Stores,
    augmentation: Augmentation,
    order: TrainingOrder,
    device: torch.device,
    temperature: float,
) -> TargetShift:
    """The target shift of training views, and the multiplier of the control without CLIP.

    The summary of a run and the control ``teacher-only`` use this function, so that they have the same
    multiplier.

    Args:
        temperature: temperature of the logit loss.
    """
    outputs, labels_N = training_outputs(source, stores, augmentation, order, device)
    alone, count = first_alone(source.fusion, source.standing_alone), source.standing_alone
    return measure_target_shift(
        source.fusion(outputs, labels_N).logits_BC, alone(outputs[:count], labels_N).logits_BC, temperature
    )
