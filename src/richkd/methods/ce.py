"""Cross-entropy with the labels: the supervised term."""

from __future__ import annotations

from pydantic import Field

from richkd.config.choices import TERMS
from richkd.core.types import Batch, Output, Target
from richkd.losses.logits import cross_entropy
from richkd.methods.term import Context, Loss, Term, TermConfig


class CrossEntropyConfig(TermConfig):
    """Settings of `ce`."""

    label_smoothing: float = Field(0.0, ge=0, lt=1, description="label smoothing")


@TERMS.register("ce", "cross-entropy with the labels; unlabeled images add zero")
class CrossEntropy(Term):
    """See `richkd.losses.logits.cross_entropy`."""

    Config = CrossEntropyConfig

    def forward(self, student: Output, target: Target | None, batch: Batch, context: Context) -> Loss:
        smoothing = self.config.label_smoothing
        return Loss(cross_entropy(student.logits_BC, batch.labels_B, label_smoothing=smoothing))
