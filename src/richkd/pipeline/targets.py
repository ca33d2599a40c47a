"""What loss terms compare the student with: one teacher, or several and their fusion."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from richkd.core.numerics import at_least_fp32
from richkd.core.types import Batch, Output, Target
from richkd.data.views import Views
from richkd.fusion.fusion import Fusion
from richkd.teachers.base import Teacher


@dataclass(frozen=True)
class TargetSource:
    """The teachers of a target, in the order of their fusion: vision teachers, then the CLIP."""

    teachers: tuple[Teacher, ...]
    fusion: Fusion

    @property
    def standing_alone(self) -> int:
        """How many of the first teachers are the fusion's baseline: all but the CLIP, or else the first."""
        has_clip = len(self.teachers) > 1 and self.teachers[-1].zero_shot is not None
        return len(self.teachers) - 1 if has_clip else 1


def distinct_teachers(sources: Mapping[str, TargetSource]) -> tuple[Teacher, ...]:
    """Every teacher of the targets once: vision teachers, then the CLIP."""
    teachers = {id(t): t for source in sources.values() for t in source.teachers}.values()
    return tuple(sorted(teachers, key=lambda teacher: teacher.zero_shot is not None))


def teach(
    sources: Mapping[str, TargetSource],
    batch: Batch,
    views: Views,
    maps_of: Sequence[Teacher] = (),
    logs_of: Container[str] = (),
) -> dict[str, Target]:
    """The target of every source for a batch; each teacher computes once.

    Args:
        maps_of: teachers whose intermediate maps are needed.
        logs_of: targets of which the log-probabilities of each teacher are needed.
    """
    mapped = {id(teacher) for teacher in maps_of}
    outputs: dict[int, Output] = {
        id(teacher): teacher.outputs(batch, views, maps=id(teacher) in mapped)
        for teacher in distinct_teachers(sources)
    }
    targets = {
        name: source.fusion([outputs[id(teacher)] for teacher in source.teachers], batch.labels_B)
        for name, source in sources.items()
    }
    return {
        name: replace(target, logs=_logs(sources[name], outputs)) if name in logs_of else target
        for name, target in targets.items()
    }


def _logs(source: TargetSource, outputs: Mapping[int, Output]) -> tuple[Tensor, ...]:
    """Log-probabilities (B, C) of each teacher at its own logit scale, so of a CLIP from scaled cosines."""
    return tuple(
        (teacher.logit_scale * at_least_fp32(outputs[id(teacher)].logits_BC)).log_softmax(dim=1)
        for teacher in source.teachers
    )
