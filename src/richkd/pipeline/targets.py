"""What loss terms compare the student with: one teacher, or several and their fusion."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

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
    sources: Mapping[str, TargetSource], batch: Batch, views: Views, maps_of: Sequence[Teacher] = ()
) -> dict[str, Target]:
    """The target of every source for a batch; each teacher computes once.

    Args:
        maps_of: teachers whose intermediate maps are needed.
    """
    mapped = {id(teacher) for teacher in maps_of}
    outputs: dict[int, Output] = {
        id(teacher): teacher.outputs(batch, views, maps=id(teacher) in mapped)
        for teacher in distinct_teachers(sources)
    }
    return {
        name: source.fusion([outputs[id(teacher)] for teacher in source.teachers], batch.labels_B)
        for name, source in sources.items()
    }
