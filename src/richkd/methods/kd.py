"""Knowledge distillation: the student's softened probabilities follow those of the target."""

from __future__ import annotations

from pydantic import Field

from richkd.config.choices import TERMS
from richkd.core.types import Batch, Output, Target
from richkd.losses.logits import kd_divergence
from richkd.methods.term import Context, LogitConfig, Loss, Temperature, Term


class DistillationConfig(LogitConfig):
    """Settings of `kd`."""

    weight: float = Field(3.0, ge=0, description="weight of the term in the sum that is minimized")
    temperature: Temperature = Field(3.0, description="temperature of both distributions")


@TERMS.register("kd", "KL divergence from the target's softened probabilities (Hinton et al. 2015)")
class Distillation(Term):
    """See `richkd.losses.logits.kd_divergence`."""

    Config = DistillationConfig

    def forward(self, student: Output, target: Target | None, batch: Batch, context: Context) -> Loss:
        assert target is not None
        temperature = self.config.temperature
        return Loss(kd_divergence(student.logits_BC, target.logits_BC, temperature, target.weight_B))
