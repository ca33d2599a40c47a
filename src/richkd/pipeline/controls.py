"""Controls: runs that share everything with a fused run except what CLIP knows of the image.

If a control gains as much over plain distillation as the fused run, the gain is not due to CLIP.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from richkd.config.schema import Config
from richkd.core.errors import ConfigError
from richkd.data.split import evenly_spaced
from richkd.data.stores import Stores
from richkd.fusion.fusion import Fusion, measure_target_shift, teacher_only_logits
from richkd.fusion.mixing import LogPool
from richkd.fusion.scale import Scale
from richkd.pipeline.targets import TargetSource
from richkd.teachers.base import Teacher
from richkd.teachers.controls import Shuffled, TextOnly
from richkd.teachers.predict import outputs_of

# Training images on which the temperature closest to the fused target is fitted.
SAMPLE = 1024


def controlled(
    config: Config, source: TargetSource, stores: Stores, device: torch.device, temperature: float
) -> TargetSource:
    """The target of the control that ``fusion.control`` names, or the given one.

    - ``teacher-only``: the vision teacher, or the mean of several, at the temperature that brings it closest
      to the fused target of training images; of several without a CLIP, the first;
    - ``clip-only``: the CLIP, at its own scale of the fusion;
    - ``shuffled``, ``shuffled-in-class``: the CLIP's outputs of another training image, of any class or of
      the same;
    - ``text-only``: the similarity of class names instead of the CLIP's outputs.

    Args:
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
        return _teacher_only(source, stores, device, temperature)
    fusion = source.fusion
    if control == "clip-only":
        origin = f"CLIP alone, {fusion.origin}"
        alone = Fusion(fusion.scales[-1:], LogPool((1.0,)), (1.0,), origin)
        return TargetSource((clip,), alone)
    return replace(source, teachers=(*others, _stand_in(control, clip, stores, config.train.seed)))


def _stand_in(control: str, clip: Teacher, stores: Stores, seed: int) -> Teacher:
    if control == "text-only":
        assert clip.zero_shot is not None
        return TextOnly(clip, clip.zero_shot.class_embeddings_CD, "train")
    assert stores.training is not None
    return Shuffled(clip, stores.training, seed, within_class=control == "shuffled-in-class")


def _teacher_only(
    source: TargetSource, stores: Stores, device: torch.device, temperature: float
) -> TargetSource:
    """The first teachers alone, at the multiplier that brings them closest to the fused target."""
    count, fusion = source.standing_alone, source.fusion
    places_N = evenly_spaced(len(stores.splits["train"]), SAMPLE)
    logits = [
        outputs_of(teacher, stores.clean("train", teacher.framing), device, places_N).logits_BC
        for teacher in source.teachers
    ]
    alone_BC = teacher_only_logits(fusion, logits, count)
    shift = measure_target_shift(fusion.logits(logits), alone_BC, temperature)
    names = ", ".join(teacher.name for teacher in source.teachers[:count])
    origin = f"{names} alone, nearest to: {fusion.origin}; {shift.nats:.3g} nats away"
    scales = (Scale(),) if count == 1 else fusion.scales[:count]
    pool = LogPool((shift.multiplier / count,) * count)
    return TargetSource(source.teachers[:count], Fusion(scales, pool, (1 / count,) * count, origin))
