"""Controls: runs that share everything with a fused run but what CLIP knows of the image.

A gain over plain distillation that a control also has is not CLIP's.
"""

from __future__ import annotations

import torch

from richkd.config.schema import Config
from richkd.core.errors import ConfigError
from richkd.core.types import Output
from richkd.data.batches import Store
from richkd.fusion.fusion import Fusion, measure_target_shift, teacher_only_logits
from richkd.fusion.mixing import LogPool
from richkd.fusion.scale import Scale
from richkd.methods.presets import Method
from richkd.teachers.cache.cached import uncached
from richkd.teachers.controls import Shuffled, TextOnly
from richkd.teachers.predict import outputs_of
from richkd.teachers.vision import Teacher

# Training images on which the temperature that is nearest to the fused target is looked for.
SAMPLE = 1024

Teachers = tuple[tuple[Teacher, ...], Fusion]


def controlled(
    config: Config,
    method: Method,
    teachers: tuple[Teacher, ...],
    fusion: Fusion,
    training: Store,
    device: torch.device,
) -> Teachers:
    """The teachers and the fusion of the control that ``fusion.control`` names, or what was given.

    - ``teacher-only``: the vision teacher, or the mean of several, at the one temperature that brings it
      nearest to the fused target of training images; of several without a CLIP, the first;
    - ``clip-only``: CLIP, at its own scale of the fusion;
    - ``shuffled``, ``shuffled-in-class``: CLIP answers for another training image, any or of the class;
    - ``text-only``: instead of CLIP, the likeness of the class names.

    Raises:
        ConfigError: one teacher alone, or a stand-in for the CLIP of a run that has none.
    """
    control = config.fusion.control
    if control is None:
        return teachers, fusion
    if len(teachers) < 2 or ("clip" not in method.teachers and control != "teacher-only"):
        raise ConfigError(
            f"Control '{control}' stands beside a fusion of a vision teacher with CLIP",
            got=", ".join(teacher.name for teacher in teachers) or "no teacher",
            fix="give --teacher and --clip, and --method richkd; or leave --fusion.control out.",
        )
    *others, clip = teachers
    if control == "teacher-only":
        count = method.in_control(len(teachers))
        return teachers[:count], nearest_alone(config, teachers, fusion, training, device, count)
    if control == "clip-only":
        alone = Fusion(fusion.scales[-1:], LogPool((1.0,)), (1.0,), f"CLIP alone, {fusion.origin}")
        return (clip,), alone
    if control == "text-only":
        text_CD = uncached(clip).class_embeddings_CD  # type: ignore[attr-defined]
        stand_in: Teacher = TextOnly(clip, text_CD, training.split.name)
    else:
        within_class = control == "shuffled-in-class"
        stand_in = Shuffled(clip, training, config.train.seed, within_class=within_class)
    return (*others, stand_in), fusion


def nearest_alone(
    config: Config,
    teachers: tuple[Teacher, ...],
    fusion: Fusion,
    training: Store,
    device: torch.device,
    count: int,
) -> Fusion:
    """The first ``count`` teachers, at the multiplier that brings them nearest to the fused target."""
    places = torch.linspace(0, len(training.split) - 1, min(SAMPLE, len(training.split))).long()
    outputs: list[Output] = [outputs_of(teacher, training, device, places) for teacher in teachers]
    logits = [output.logits_BC for output in outputs]
    alone_BC = teacher_only_logits(fusion, logits, count)
    result = measure_target_shift(fusion.logits(logits), alone_BC, config.method.temperature)
    names = ", ".join(teacher.name for teacher in teachers[:count])
    origin = f"{names} alone, nearest to: {fusion.origin}; {result.nats:.3g} nats away"
    scales = (Scale(),) if count == 1 else fusion.scales[:count]
    return Fusion(scales, LogPool((result.multiplier / count,) * count), (1 / count,) * count, origin)
