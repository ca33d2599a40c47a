"""Contrastive representation distillation (CRD) from one network, in its published configuration.

Source: Tian, Krishnan and Isola, "Contrastive representation distillation", ICLR 2020, equations 11 to 18 and
section 4; weight 0.8, momentum 0.5 and negatives by class are those of the authors' code.
"""

from __future__ import annotations

from typing import ClassVar, Literal

from richkd.config.choices import TERMS
from richkd.core.types import Batch, Output, Target
from richkd.methods.contrastive import ContrastConfig, Contrastive
from richkd.methods.term import Context, Loss


class CrdConfig(ContrastConfig):
    """Settings of `crd`; the defaults are those of the paper."""

    # Each image has its own negatives, as published. So it is no setting.
    negatives: ClassVar[Literal["memory-bank"]] = "memory-bank"


@TERMS.register("crd", "contrastive representation distillation from one teacher (Tian et al. 2020)")
class Crd(Contrastive):
    """The loss and the state of `contrastive`, for one teacher, with one memory bank per network.

    With images of equal weight, the value is that of `contrastive` with its defaults and the same seed.
    """

    Config = CrdConfig
    one_teacher = True
    stream = None

    def forward(self, student: Output, target: Target | None, batch: Batch, context: Context) -> Loss:
        assert target is not None
        return self.compare(student, target, batch, context, target.weight_B)
