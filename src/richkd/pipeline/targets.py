"""What loss terms compare the student with: one teacher, or several and their fusion.

Images with labels can have another fusion than those without. The target of a batch then has rows of both.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from richkd.core.numerics import at_least_fp32
from richkd.core.types import UNLABELED, Batch, Output, Target
from richkd.data.views import Views
from richkd.fusion.by_label import ALL, LABELED, WITHOUT
from richkd.fusion.fusion import Fusion
from richkd.models.sharded import in_step
from richkd.teachers.base import Teacher


@dataclass(frozen=True)
class TargetSource:
    """The teachers of a target, in the order of their fusion: vision teachers, then the CLIP.

    Attributes:
        fusion: the fusion of images without labels if there are any, else of all images.
        labeled: the fusion of images with labels, if it is another one; else None.
    """

    teachers: tuple[Teacher, ...]
    fusion: Fusion
    labeled: Fusion | None = None

    @property
    def standing_alone(self) -> int:
        """How many of the first teachers are the fusion's baseline: all but the CLIP, or else the first."""
        has_clip = len(self.teachers) > 1 and self.teachers[-1].zero_shot is not None
        return len(self.teachers) - 1 if has_clip else 1

    @property
    def fusions(self) -> dict[str, Fusion]:
        """The fusion of each kind of training images, the one for images with labels first."""
        if self.labeled is None:
            return {ALL: self.fusion}
        return {LABELED: self.labeled, WITHOUT: self.fusion}

    def with_fusions(self, fusions: Mapping[str, Fusion], teachers: tuple[Teacher, ...]) -> TargetSource:
        """The target of these teachers with another fusion for each kind of training images."""
        first, *rest = fusions.values()
        return TargetSource(teachers, rest[0], first) if rest else TargetSource(teachers, first)

    def target(self, outputs: Sequence[Output], labels_B: Tensor) -> Target:
        """The target of a batch from the outputs of each teacher; labels tell the fusion of each image."""
        target = self.fusion(outputs, labels_B)
        if self.labeled is None:
            return target
        labeled_BC = self.labeled(outputs, labels_B).logits_BC
        known_B1 = (labels_B != UNLABELED)[:, None]
        return replace(target, logits_BC=torch.where(known_B1, labeled_BC, target.logits_BC))


def distinct_teachers(sources: Mapping[str, TargetSource]) -> tuple[Teacher, ...]:
    """Every teacher of the targets once: vision teachers, then the CLIP."""
    teachers = {id(t): t for source in sources.values() for t in source.teachers}.values()
    return tuple(sorted(teachers, key=lambda teacher: teacher.zero_shot is not None))


def teach(
    sources: Mapping[str, TargetSource],
    batch: Batch,
    views: Views,
    maps_of: Sequence[Teacher] = (),
    logs_for: Iterable[str] = (),
) -> dict[str, Target]:
    """The target of every source for a batch; each teacher computes once.

    Args:
        maps_of: teachers whose intermediate maps are needed.
        logs_for: targets of which the log-probabilities of each teacher are needed.
    """
    mapped = {id(teacher) for teacher in maps_of}
    with in_step():
        outputs: dict[int, Output] = {
            id(teacher): teacher.outputs(batch, views, maps=id(teacher) in mapped)
            for teacher in distinct_teachers(sources)
        }
    targets = {
        name: source.target([outputs[id(teacher)] for teacher in source.teachers], batch.labels_B)
        for name, source in sources.items()
    }
    for name in logs_for:
        teachers = sources[name].teachers
        logs = logs_of([outputs[id(t)] for t in teachers], [t.logit_scale for t in teachers])
        targets[name] = replace(targets[name], logs=logs)
    return targets


def of_kind(kind: str, labels_N: Tensor) -> Tensor:
    """Which images belong to a kind of training images, shape (N).

    Example:
        >>> of_kind(LABELED, torch.tensor([2, UNLABELED])).tolist()
        [True, False]
    """
    if kind == ALL:
        return torch.ones_like(labels_N, dtype=torch.bool)
    return (labels_N != UNLABELED) == (kind == LABELED)


def logs_of(outputs: Sequence[Output], scales: Sequence[float]) -> tuple[Tensor, ...]:
    """Log-probabilities (B, C) of each teacher at its own logit scale, so of a CLIP from scaled cosines.

    Example:
        >>> (log_BC,) = logs_of([Output(torch.tensor([[0.25, 0.25]]), torch.zeros(1, 0))], [100.0])
        >>> log_BC.exp().tolist()
        [[0.5, 0.5]]
    """
    return tuple(
        (scale * at_least_fp32(output.logits_BC)).log_softmax(dim=1)
        for output, scale in zip(outputs, scales, strict=True)
    )
