"""What a loss term is: its settings, what it needs of student and target, its state, and its loss."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field
from torch import Tensor, nn

from richkd.config.schema import Section
from richkd.core.types import Batch, Output, Target
from richkd.methods.annealing import Annealing

# "logits" are those of the fused target, "teacher-logits" those of each of its teachers.
Need = Literal["logits", "teacher-logits", "features", "maps"]
Shape = tuple[int, int, int]
# Losses have the factor T², and logits are divided by T; both must be finite in float32.
MIN_TEMPERATURE, MAX_TEMPERATURE = 1e-6, 1e6
Temperature = Annotated[float, Field(ge=MIN_TEMPERATURE, le=MAX_TEMPERATURE)]


class TermConfig(Section):
    """Settings that every term has. A term's own settings are a subclass.

    Attributes:
        of_progress: names of settings that make the loss depend on ``Context.progress``, unless they are 0.
    """

    of_progress: ClassVar[tuple[str, ...]] = ()

    weight: float = Field(1.0, ge=0, description="weight of the term in the sum that is minimized")
    annealing: Annealing = Field(
        "none", description="how the weight falls to zero during the run: none, linear or cosine"
    )

    @property
    def follows_progress(self) -> tuple[str, ...]:
        """Names of the settings that make the loss depend on how much of the run is done.

        Example:
            >>> TermConfig().follows_progress, TermConfig(annealing="linear").follows_progress
            ((), ('annealing',))
        """
        annealing = () if self.annealing == "none" else ("annealing",)
        return annealing + tuple(name for name in self.of_progress if getattr(self, name))


class TargetConfig(TermConfig):
    """Settings of a term that compares the student with a target."""

    target: str = Field(
        "fused",
        description="fused (all teachers), teacher (vision teachers only), teacher-1, teacher-2, … (one "
        "of them), clip",
    )


class LogitConfig(TargetConfig):
    """Settings of a term that compares the student's logits with those of a target."""

    standardize: bool = Field(
        False,
        description="compare z-scores of the logits over the classes, so that their scale does not matter",
    )


@dataclass(frozen=True)
class NetworkShapes:
    """Widths of a network's outputs, from one dry forward pass.

    Attributes:
        features: width F of the pooled feature; 0 if there is none.
        maps: channels, height and width of each stage's map; empty unless a term needs maps.
        norms: for each map, scale and shift of the batch normalization whose output, behind a ReLU, is the
            map; None for a map that is made in another way. Empty for a student.
        averaged: whether the pooled feature is the mean over all positions of the last map.
        classifier: of a teacher whose maps a term needs, the frozen layer that computes logits (B, C) from
            the mean over positions of its last map; None if there is no such layer.
    """

    features: int
    maps: tuple[Shape, ...] = ()
    norms: tuple[tuple[Tensor, Tensor] | None, ...] = ()
    averaged: bool = False
    classifier: nn.Module | None = None


@dataclass(frozen=True)
class Setup:
    """What a term may use to build its state.

    Attributes:
        student: shapes of the student's outputs.
        teachers: shapes of each teacher of the term's target; empty for a term without a target.
        labels_N: label of each training image.
        classes: number of classes.
        seed: seed of everything random in this term.
    """

    student: NetworkShapes
    teachers: tuple[NetworkShapes, ...]
    labels_N: Tensor
    classes: int
    seed: int


@dataclass(frozen=True)
class Context:
    """Where training is.

    Attributes:
        step: number of optimizer steps so far.
        progress: share of the run that is done, in [0, 1].
        first: place of the batch's first image in the step. A batch is a part of a step where the step is
            computed in parts (gradient accumulation) or by several processes.
        of_step: images of the step; None if the batch is the step.
    """

    step: int = 0
    progress: float = 0.0
    first: int = 0
    of_step: int | None = None


@dataclass(frozen=True)
class Loss:
    """A term's unweighted loss, and detached rows that its state keeps for later batches."""

    value: Tensor
    memory: Mapping[str, Tensor] = field(default_factory=dict)


class Term(nn.Module, ABC):
    """One summand of the objective.

    A subclass is registered in ``TERMS`` and states the class attributes below. Its trainable modules and
    buffers are attributes as in any module: they are moved, optimized, checkpointed and counted without
    further code.

    Attributes:
        Config: its settings; a subclass of `LogitConfig` if it compares logits with a target. It then gets
            standardized logits where the setting asks for them (`richkd.methods.standardize`).
        needs: what it reads of the student and of the target's teachers.
        one_teacher: its target must be a single network, because outputs of several networks do not compare.
        linear: the loss is linear in the target, so a mixed batch's loss is the mix of two losses. If False,
            the target is mixed instead.
        least_images: fewest images that a part of a step must have, because the loss compares them with
            each other or normalizes over them; 1 for a loss of single images.
        keeps_rows: the state has a row for each training image, so labels and positions of all are needed.
        compares_images: whether the loss is no mean over single images, so that it must see all images of a
            part of a step, not only the share of its process. None: if `least_images` is more than 1.
        looks_at_first: the state is estimated from the images of the first step, which must all be seen.
        reuses_classifier: the student gets the classifier of the target's teacher, behind a projector.
        stream: name of the random stream that its state is drawn from; its label in the objective if None.
    """

    Config: ClassVar[type[TermConfig]] = LogitConfig
    needs: ClassVar[frozenset[Need]] = frozenset({"logits"})
    one_teacher: ClassVar[bool] = False
    linear: ClassVar[bool] = True
    least_images: ClassVar[int] = 1
    keeps_rows: ClassVar[bool] = False
    compares_images: ClassVar[bool | None] = None
    looks_at_first: ClassVar[bool] = False
    reuses_classifier: ClassVar[bool] = False
    stream: ClassVar[str | None] = None

    def __init__(self, config: Any, setup: Setup) -> None:
        super().__init__()
        self.config = config

    @abstractmethod
    def forward(self, student: Output, target: Target | None, batch: Batch, context: Context) -> Loss:
        """The loss of a batch, averaged over all its images.

        With gradient accumulation, the batch is one part of a step, and the step's loss is the mean of those
        of its parts, weighted by their number of images. With several processes, the batch is the share of
        this process, or has the images of all of them, as the attributes above ask for.
        """

    def remember(self, index_B: Tensor, memory: Mapping[str, Tensor]) -> None:
        """Update the state after the optimizer step, with what `forward` returned for these images."""
