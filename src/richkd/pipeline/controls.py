"""Controls: runs that share everything with a fused run except what CLIP knows of the image.

If a control gains as much over plain distillation as the fused run, the gain is not due to CLIP.
"""

from __future__ import annotations

from dataclasses import replace

from richkd.config.entropy import OWN
from richkd.config.schema import Config
from richkd.core.errors import ConfigError
from richkd.data.stores import Stores
from richkd.fusion.alone import TargetShift, first_teachers_only, last_teacher_only
from richkd.fusion.fusion import Fusion
from richkd.pipeline.sharpen import Sharpener
from richkd.pipeline.signal import shifts_of
from richkd.pipeline.targets import TargetSource
from richkd.teachers.base import Teacher
from richkd.teachers.controls import Shuffled, TextOnly


def controlled(
    config: Config,
    name: str,
    source: TargetSource,
    stores: Stores,
    sharpener: Sharpener,
    temperature: float,
) -> TargetSource:
    """The target of the control that ``fusion.control`` names, or the given one.

    - ``teacher-only``: the vision teacher, or the mean of several, at the temperature that brings it closest
      to the fused target of training views; of several without a CLIP, the first;
    - ``clip-only``: the CLIP, at its own scale of the fusion;
    - ``shuffled``, ``shuffled-in-class``: the CLIP's outputs of another training image, of any class or of
      the same;
    - ``text-only``: the similarity of class names instead of the CLIP's outputs.

    Everything else is that of the fused run, such as the scale of features. Images with labels and those
    without have a control of their fusion each. If ``fusion.entropy`` is set, the first two have the entropy
    of the fused target instead of the nearest temperature and of the scale of the CLIP.

    Args:
        name: name of the target.
        sharpener: gives the control the entropy of the target.
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
        return sharpener.matched(name, _teacher_only(source, sharpener, temperature), source)
    if control == "clip-only":
        fusions = {
            kind: replace(last_teacher_only(fusion), origin=f"CLIP alone, {fusion.origin}")
            for kind, fusion in source.fusions.items()
        }
        return sharpener.matched(name, source.with_fusions(fusions, (clip,)), source)
    return replace(source, teachers=(*others, _stand_in(control, clip, stores, config.train.seed)))


def _stand_in(control: str, clip: Teacher, stores: Stores, seed: int) -> Teacher:
    if control == "text-only":
        assert clip.zero_shot is not None
        return TextOnly(clip, clip.zero_shot.class_embeddings_CD, "train")
    assert stores.training is not None
    return Shuffled(clip, stores.training, seed, within_class=control == "shuffled-in-class")


def _teacher_only(source: TargetSource, sharpener: Sharpener, temperature: float) -> TargetSource:
    """The first teachers alone, at the multiplier that brings them closest to the fused target.

    Where the target has a given entropy, the sharpener finds the factor, so they have their own temperature.
    """
    teachers = source.teachers[: source.standing_alone]
    wanted, shifts = sharpener.wanted(source), {}
    if OWN in wanted.values():
        shifts = shifts_of(source, sharpener.sampling(source), temperature)
    fusions = {
        kind: _first_alone(fusion, teachers, shifts[kind] if wanted[kind] == OWN else None)
        for kind, fusion in source.fusions.items()
    }
    return source.with_fusions(fusions, teachers)


def _first_alone(fusion: Fusion, teachers: tuple[Teacher, ...], shift: TargetShift | None) -> Fusion:
    names = ", ".join(teacher.name for teacher in teachers)
    if shift is None:
        return replace(
            first_teachers_only(fusion, len(teachers)), origin=f"{names} alone, for: {fusion.origin}"
        )
    origin = f"{names} alone, nearest to: {fusion.origin}; {shift.nats:.3g} nats away"
    return replace(first_teachers_only(fusion, len(teachers), shift.multiplier), origin=origin)
