"""Random logits, and calls of a term with them, for the tests of terms that compare logits."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from richkd.config.choices import TERMS
from richkd.core.types import Batch, Output, Target
from richkd.data.mixup import Mix
from richkd.methods.objective import Objective, TermSpec
from richkd.methods.term import Context, NetworkShapes

FUSED = "fused"


def random_logits(images: int, classes: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Logits of student and teacher in float64, and labels."""
    generator = torch.Generator().manual_seed(seed)
    student, teacher = (3 * torch.randn(images, classes, generator=generator).double() for _ in range(2))
    return student, teacher, torch.randint(classes, (images,), generator=generator)


def random_weights(images: int, seed: int) -> Tensor:
    """Weights of images in [0, 1], the first of them 0 if there are several."""
    weight_B = torch.rand(images, generator=torch.Generator().manual_seed(seed)).double()
    if images > 1:
        weight_B[0] = 0
    return weight_B


def build(name: str, labels_B: Tensor, classes: int, **settings: Any) -> Objective:
    """An objective of one term."""
    term = TERMS[name]
    spec = TermSpec(name, name, term, term.Config(**settings), FUSED)
    shapes = NetworkShapes(2)
    return Objective([spec], shapes, {FUSED: (shapes,)}, labels_B, classes, seed=0)


def value_of(
    objective: Objective,
    student: Tensor,
    teacher: Tensor,
    labels_B: Tensor,
    weight_B: Tensor | None = None,
    mix: Mix | None = None,
    context: Context | None = None,
) -> Tensor:
    """The loss of an objective of one term."""
    features = torch.zeros(len(labels_B), 2)
    target = Target(teacher, (Output(teacher, features),), (1.0,), weight_B)
    pixels = torch.zeros(len(labels_B), 2, 2, 3, dtype=torch.uint8)
    batch = Batch("train", torch.arange(len(labels_B)), pixels, labels_B)
    seen = Output(student, features)
    return objective(seen, {FUSED: target}, batch, context or Context(progress=1.0), mix).total
