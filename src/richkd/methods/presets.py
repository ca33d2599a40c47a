"""Methods: pure functions from (student, target, batch, context) to named loss terms.

To add one, write a function below from the losses in ``richkd/losses``, list it in :data:`METHODS`
with the teachers that it needs, and describe it in ``docs/methods/``. The trainer knows none by name.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from richkd.config.schema import MethodConfig
from richkd.core.errors import ConfigError, nearest
from richkd.core.types import Batch, LossTerms, Output, Target
from richkd.losses.logits import cross_entropy, kd_divergence
from richkd.losses.memory_bank import ContrastMemory

Teacher = Literal["teacher", "clip"]


@dataclass(frozen=True)
class Context:
    """What a method may read besides outputs: its settings, the step's number, and its memory."""

    config: MethodConfig
    step: int
    memory: ContrastMemory | None = None


def ce(student: Output, target: Target | None, batch: Batch, context: Context) -> LossTerms:
    """Plain training: cross-entropy with the labels."""
    return LossTerms({"ce": _labels_term(student, batch, context)})


def kd(student: Output, target: Target | None, batch: Batch, context: Context) -> LossTerms:
    """Knowledge distillation: labels, and the target's softened logits (Hinton et al. 2015)."""
    return LossTerms(
        {"ce": _labels_term(student, batch, context), "logits": _logits_term(student, target, context)}
    )


def richkd_f(student: Output, target: Target | None, batch: Batch, context: Context) -> LossTerms:
    """RichKD F: labels, and the fused feature through the contrastive loss (paper, feature fusion)."""
    feature_term, memory = _features_term(student, target, batch, context)
    return LossTerms({"ce": _labels_term(student, batch, context), "features": feature_term}, memory)


def richkd_lf(student: Output, target: Target | None, batch: Batch, context: Context) -> LossTerms:
    """RichKD L+F: labels, fused logits and the fused feature (paper, both levels)."""
    feature_term, memory = _features_term(student, target, batch, context)
    terms = {
        "ce": _labels_term(student, batch, context),
        "logits": _logits_term(student, target, context),
        "features": feature_term,
    }
    return LossTerms(terms, memory)


@dataclass(frozen=True)
class Method:
    """A method's function, the teachers whose fusion is its target, and whether it keeps a memory."""

    terms: Callable[[Output, Target | None, Batch, Context], LossTerms]
    teachers: tuple[Teacher, ...] = ()
    remembers: bool = False

    def in_control(self, num_teachers: int) -> int:
        """How many teachers, the first ones, stand alone beside their fusion: all but CLIP, or one."""
        return num_teachers - 1 if "clip" in self.teachers else 1


METHODS: dict[str, Method] = {
    "ce": Method(ce),
    "kd": Method(kd, teachers=("teacher",)),
    # RichKD L is KD whose target is fused.
    "richkd-l": Method(kd, teachers=("teacher", "clip")),
    "richkd-f": Method(richkd_f, teachers=("teacher", "clip"), remembers=True),
    "richkd-lf": Method(richkd_lf, teachers=("teacher", "clip"), remembers=True),
}


def find_method(config: MethodConfig) -> Method:
    """The method that the settings name.

    Raises:
        ConfigError: an unknown name, with the nearest known one.
    """
    name = f"{config.name}-{config.variant}" if config.name == "richkd" else config.name
    if name not in METHODS:
        known = {key.partition("-")[0] for key in METHODS}
        raise ConfigError(f"There is no method '{config.name}'", fix=nearest(config.name, known))
    return METHODS[name]


def _labels_term(student: Output, batch: Batch, context: Context) -> Tensor:
    config = context.config
    return config.ce * cross_entropy(
        student.logits_BC, batch.labels_B, label_smoothing=config.label_smoothing
    )


def _logits_term(student: Output, target: Target | None, context: Context) -> Tensor:
    assert target is not None
    config = context.config
    divergence = kd_divergence(student.logits_BC, target.logits_BC, config.temperature, target.weight_B)
    return config.logits * divergence


def _features_term(
    student: Output, target: Target | None, batch: Batch, context: Context
) -> tuple[Tensor, dict[str, Tensor]]:
    assert target is not None
    assert context.memory is not None
    student_BD, target_BD = context.memory.embed(student, target)
    loss = context.memory.loss(student_BD, target_BD, batch, context.step)
    return context.config.features * loss, {"student": student_BD.detach(), "target": target_BD.detach()}
