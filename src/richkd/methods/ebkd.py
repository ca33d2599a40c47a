"""Entropy-based weights: for each image, a teacher counts more if its output has a lower entropy.

Source: Kwon, Na, Lee and Kim, "Adaptive knowledge distillation based on entropy", ICASSP 2020, in the form
that Zhang, Chen and Wang, "Confidence-aware multi-teacher knowledge distillation", ICASSP 2022, compare with.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from richkd.config.choices import TERMS
from richkd.core.types import Batch, Output, Target
from richkd.losses.several_teachers import shares_of_small, softened, weighted_divergence
from richkd.methods.term import Context, Loss, Need, TargetConfig, Temperature, Term


class EntropyWeightedConfig(TargetConfig):
    """Settings of `ebkd`; the defaults are those of the comparison on CIFAR-100."""

    temperature: Temperature = Field(4.0, description="temperature of student and teachers")


@TERMS.register("ebkd", "several teachers, weighted per image by their entropy (Kwon et al. 2020)")
class EntropyWeighted(Term):
    """See `entropy_weights` and `richkd.losses.several_teachers.weighted_divergence`."""

    Config = EntropyWeightedConfig
    needs: ClassVar[frozenset[Need]] = frozenset({"teacher-logits"})

    def forward(self, student: Output, target: Target | None, batch: Batch, context: Context) -> Loss:
        assert target is not None
        weights_MB, temperature = entropy_weights(target.logs), self.config.temperature
        value = weighted_divergence(student.logits_BC, target.logs, weights_MB, temperature, target.weight_B)
        return Loss(value)


def entropy_weights(logs: Sequence[Tensor]) -> Tensor:
    """``(1 − H_m / Σ_j H_j) / (M − 1)`` (M, B), with H_m the entropy of teacher m's output at temperature 1.

    The weights of M teachers sum to one for each image. One teacher has the weight one, and teachers that are
    all certain have equal weights.

    Args:
        logs: logits or log-probabilities (B, C) of each teacher; no gradient.

    Example:
        >>> sure_BC, unsure_BC = torch.tensor([[9.0, 0.0, 0.0]]), torch.zeros(1, 3)
        >>> [round(weight, 2) for weight in entropy_weights([sure_BC, unsure_BC])[:, 0].tolist()]
        [1.0, 0.0]
    """
    return shares_of_small(torch.stack([_entropy(softened(log_BC, 1.0)) for log_BC in logs]))


def _entropy(log_BC: Tensor) -> Tensor:
    """Entropy (B) in nats; a class of probability zero adds nothing."""
    probs_BC = log_BC.exp()
    return -(probs_BC * log_BC.masked_fill(probs_BC == 0, 0.0)).sum(dim=1).clamp(max=0)
