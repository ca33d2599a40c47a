"""The contrastive feature loss of RichKD: the student's embedding follows the teachers' fused embedding."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field
from torch import Tensor

from richkd.config.choices import TERMS
from richkd.core.types import Batch, Output, Target
from richkd.losses.memory_bank import ContrastMemory, ContrastSettings, Negatives
from richkd.methods.term import Context, Loss, Need, Setup, TargetConfig, Temperature, Term

# A step with memory banks costs in proportion to their rows: with as many rows, 16 times as much as a queue.
MOST_ROWS = 200_000


class ContrastConfig(TargetConfig):
    """Settings that `contrastive` and `crd` share; the defaults are those of CRD."""

    weight: float = Field(0.8, ge=0, description="weight of the term in the sum that is minimized")
    embed_dim: int = Field(128, ge=2, description="width of the embedding in which features are compared")
    num_negatives: int = Field(16384, ge=1, description="number of negatives, images of other classes")
    temperature: Temperature = Field(0.07, description="temperature of the contrastive scores")
    momentum: float = Field(0.5, ge=0, lt=1, description="momentum of the memory banks")


class ContrastiveConfig(ContrastConfig):
    """Settings of `contrastive`."""

    negatives: Literal["auto", Negatives] = Field(
        "auto",
        description="memory-bank: each image has its own negatives; shared: one set per batch; queue: the "
        f"latest rows; auto: queue with more than {MOST_ROWS:,} training images, else memory-bank",
    )


@TERMS.register(
    "contrastive", "contrastive loss on embedded features with memory banks (CRD, Tian et al. 2020)"
)
class Contrastive(Term):
    """See `richkd.losses.contrast` for the loss and `richkd.losses.memory_bank` for its state."""

    Config: ClassVar[type[ContrastConfig]] = ContrastiveConfig
    needs: ClassVar[frozenset[Need]] = frozenset({"features"})
    keeps_rows: ClassVar[bool] = True
    stream: ClassVar[str | None] = "memory"
    looks_at_first = True

    def __init__(self, config: Any, setup: Setup) -> None:
        super().__init__(config, setup)
        widths = [teacher.features for teacher in setup.teachers]
        negatives = config.negatives
        if negatives == "auto":
            negatives = "queue" if len(setup.labels_N) > MOST_ROWS else "memory-bank"
        settings = ContrastSettings(
            config.embed_dim, negatives, config.num_negatives, config.temperature, config.momentum
        )
        self.memory = ContrastMemory(
            setup.student.features, widths, setup.labels_N, setup.classes, settings, setup.seed
        )

    def forward(self, student: Output, target: Target | None, batch: Batch, context: Context) -> Loss:
        assert target is not None
        # A fused feature loss does not use the weights of images, which say how usual they are to logits.
        return self.compare(student, target, batch, context, None)

    def compare(
        self, student: Output, target: Target, batch: Batch, context: Context, weight_B: Tensor | None
    ) -> Loss:
        """The loss of a batch and the embeddings to remember; ``weight_B`` weights the images."""
        student_BD, target_BD = self.memory.embed(student, target)
        place = (context.first, context.of_step)
        value = self.memory.loss(student_BD, target_BD, batch, context.step, weight_B, *place)
        return Loss(value, {"student": student_BD.detach(), "target": target_BD.detach()})

    def remember(self, index_B: Tensor, memory: Mapping[str, Tensor]) -> None:
        self.memory.remember(index_B, memory["student"], memory["target"])
