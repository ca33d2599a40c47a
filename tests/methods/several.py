"""Random logits of a student and several teachers, and a term's loss for them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from richkd.config.choices import TERMS
from richkd.config.schema import Config
from richkd.core.types import Batch, Output, Target
from richkd.methods.term import Context, NetworkShapes, Setup
from tests.fixtures import World, make_teacher


def random_logits(images: int, classes: int, teachers: int, seed: int) -> tuple[Tensor, list[Tensor], Tensor]:
    generator = torch.Generator().manual_seed(seed)
    student, *others = (
        3 * torch.randn(images, classes, generator=generator, dtype=torch.float64)
        for _ in range(teachers + 1)
    )
    return student, others, torch.randint(classes, (images,), generator=generator)


def target_of(teachers: Sequence[Tensor], weight_B: Tensor | None = None) -> Target:
    """A target whose fused logits must not be read: they are NaN."""
    count = len(teachers)
    outputs = tuple(Output(z_BC, z_BC[:, :1]) for z_BC in teachers)
    nan_BC = torch.full_like(teachers[0], float("nan"))
    return Target(nan_BC, outputs, (1 / count,) * count, weight_B, tuple(z.log_softmax(1) for z in teachers))


def batch_of(labels_B: Tensor) -> Batch:
    images = len(labels_B)
    return Batch("train", torch.arange(images), torch.zeros(images, 2, 2, 3, dtype=torch.uint8), labels_B)


def loss_of(
    name: str,
    student: Tensor,
    teachers: Sequence[Tensor],
    labels: Tensor,
    weight_B: Tensor | None = None,
    **settings: Any,
) -> Tensor:
    """The unweighted loss of a registered term."""
    shapes = (NetworkShapes(1),) * len(teachers)
    setup = Setup(NetworkShapes(1), shapes, labels, student.shape[1], seed=0)
    term = TERMS[name](TERMS[name].Config(**settings), setup)
    value: Tensor = term(
        Output(student, student[:, :1]), target_of(teachers, weight_B), batch_of(labels), Context()
    ).value
    return value


def with_clip(world: World, out: Path, name: str, **changes: Any) -> Config:
    """A run of a term that reads two vision teachers and, unless changed, a CLIP."""
    make_teacher(out.parent / "second", seed=9)
    settings: dict[str, Any] = {
        "objective": [{"ce": None}, {name: {"target": "fused"}}],
        "teachers__1__name": f"local-dir:{world.teacher}",
        "teachers__2__name": f"local-dir:{out.parent / 'second'}",
        "clip__name": f"outputs:{world.clip}",
        "train__epochs": 1,
    }
    return world.config(out, **(settings | changes))
