"""Controls: runs that share everything with a fused run except what CLIP knows of the image.

If a control gains as much over plain distillation as the fused run, the gain is not due to CLIP.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from richkd.config.schema import Config
from richkd.core.errors import ConfigError
from richkd.data.order import TrainingOrder
from richkd.data.stores import Stores
from richkd.data.views import Augmentation
from richkd.fusion.fusion import TargetShift, first_alone, last_alone
from richkd.pipeline.signal import measure_signal
from richkd.pipeline.targets import TargetSource
from richkd.teachers.base import Teacher
from richkd.teachers.controls import Shuffled, TextOnly


def controlled(
    config: Config,
    source: TargetSource,
    stores: Stores,
    augmentation: Augmentation,
    order: TrainingOrder,
    device: torch.device,
    temperature: float,
) -> TargetSource:
    """The target of the control that ``fusion.control`` names, or the given one.

    - ``teacher-only``: the vision teacher, or the mean of several, at the temperature that brings it closest
      to the fused target of training views; of several without a CLIP, the first;
    - ``clip-only``: the CLIP, at its own scale of the fusion;
    - ``shuffled``, ``shuffled-in-class``: the CLIP's outputs of another training image, of any class or of
      the same;
    - ``text-only``: the similarity of class names instead of the CLIP's outputs.

    Everything else is that of the fused run, such as the scale of features.

    Args:
        augmentation: how training images are augmented.
        order: the images of each step, for a single process.
        temperature: temperature of the logit loss.

    Raises:
        ConfigError: a single teacher, or a control of the CLIP in a run without one.
    """
    control, teachers = config.fusion.control, source.teachers
    if control is None:
        return source
    if len(teachers) < 2 or (teachers[-1].zero_shot is None and control != "teacher-only"):
        raise ConfigError(
            f"Control '{control}' needs a fusion of a vision teacher with CLIP",
            got=", ".join(teacher.name for teacher in teachers) or "no teacher",
            fix="give --teacher and --clip, and --method richkd; or remove --fusion.control.",
        )
    *others, clip = teachers
    if control == "teacher-only":
        return _teacher_only(source, measure_signal(source, stores, augmentation, order, device, temperature))
    if control == "clip-only":
        alone = replace(last_alone(source.fusion), origin=f"CLIP alone, {source.fusion.origin}")
        return TargetSource((clip,), alone)
    return replace(source, teachers=(*others, _stand_in(control, clip, stores, config.train.seed)))


def _stand_in(control: str, clip: Teacher, stores: Stores, seed: int) -> Teacher:
    if control == "text-only":
        assert clip.zero_shot is not None
        return TextOnly(clip, clip.zero_shot.class_embeddings_CD, "train")
    assert stores.training is not None
    return Shuffled(clip, stores.training, seed, within_class=control == "shuffled-in-class")


def _teacher_only(source: TargetSource, shift: TargetShift) -> TargetSource:
    """The first teachers alone, at the multiplier that brings them closest to the fused target."""
    teachers = source.teachers[: source.standing_alone]
    names = ", ".join(teacher.name for teacher in teachers)
    origin = f"{names} alone, nearest to: {source.fusion.origin}; {shift.nats:.3g} nats away"
    alone = first_alone(source.fusion, len(teachers), shift.multiplier)
    return TargetSource(teachers, replace(alone, origin=origin))
