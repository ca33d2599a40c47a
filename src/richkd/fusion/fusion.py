"""The fusion: the logits and features of several teachers become one target."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor

from richkd.core.types import UNLABELED, Output, Target
from richkd.fusion.feature_scale import FeatureScale
from richkd.fusion.mixing import LogPool, Mixing
from richkd.fusion.ood import OodWeights
from richkd.fusion.scale import Scale, on_scales


@dataclass(frozen=True)
class Fusion:
    """The scale of each teacher, how their logits are mixed, and the shares of their features.

    Attributes:
        scales: converts each teacher's logits (for a CLIP: cosines) to log-probabilities.
        mixing: combines the log-probabilities into fused logits.
        feature_weights: share of each teacher's embedded features; they sum to one (paper: λ, 1 − λ).
        origin: how the values were determined, for the log and the summary.
        ood_weights: reduces the weight of teachers on unusual unlabeled images; None: full weight.
        features: brings each teacher's features to a common scale; None: they are not changed.
        factor: multiplies the fused logits, so that the target has a given entropy (`fit_factor`).
        fitted: whether the mixing was fitted on held-out images.

    Example:
        >>> from richkd.config.schema import FusionConfig
        >>> from richkd.fusion.fuse import fuse
        >>> fusion = fuse(FusionConfig(weights=(0.5, 50.0)), [1.0, 100.0], None)
        >>> vision = Output(torch.tensor([[4.0, 0.0]]), torch.zeros(1, 8))
        >>> clip = Output(torch.tensor([[0.25, 0.26]]), torch.zeros(1, 6))  # logits are cosines
        >>> target = fusion([vision, clip], torch.tensor([0]))
        >>> round(float(target.logits_BC[0, 0] - target.logits_BC[0, 1]), 4)  # 0.5 · 4 − 50 · 0.01
        1.5
        >>> fusion.multipliers
        (0.5, 50.0)
    """

    scales: tuple[Scale, ...]
    mixing: Mixing
    feature_weights: tuple[float, ...]
    origin: str
    ood_weights: OodWeights | None = None
    features: tuple[FeatureScale, ...] | None = None
    factor: float = 1.0
    fitted: bool = False

    def __call__(self, teachers: Sequence[Output], labels_B: Tensor) -> Target:
        """The target of a batch; images with label `UNLABELED` get the out-of-distribution weights."""
        logits = [teacher.logits_BC for teacher in teachers]
        if self.features is not None:
            scaled = zip(self.features, teachers, strict=True)
            teachers = [replace(teacher, feats_BF=scale(teacher.feats_BF)) for scale, teacher in scaled]
        if self.ood_weights is None:
            return Target(self.logits(logits), tuple(teachers), self.feature_weights)
        weights = self.ood_weights(logits, labels_B != UNLABELED)
        # Tempered log-probabilities are normalized again, for pools that need probabilities.
        logs = [
            (weight_B[:, None] * log_BC).log_softmax(dim=1)
            for weight_B, log_BC in zip(weights, on_scales(self.scales, logits), strict=True)
        ]
        image_weight_B = torch.stack(weights).amax(dim=0)
        return Target(self._mixed(logs), tuple(teachers), self.feature_weights, image_weight_B)

    def logits(self, logits: Sequence[Tensor]) -> Tensor:
        """Fused logits (B, C) from the logits of each teacher."""
        assert len(logits) == len(self.scales)
        return self._mixed(on_scales(self.scales, logits))

    def _mixed(self, logs: Sequence[Tensor]) -> Tensor:
        mixed_BC = self.mixing(logs)
        return mixed_BC if self.factor == 1 else self.factor * mixed_BC

    @property
    def is_calibrated(self) -> bool:
        """Whether the fit included the scale of the fused logits, and nothing has changed it since."""
        return self.fitted and self.factor == 1.0

    @property
    def multipliers(self) -> tuple[float, ...] | None:
        """Factor of each teacher's logits if the fusion is a weighted sum of logits; otherwise None."""
        if isinstance(self.mixing, LogPool) and not any(scale.standardized for scale in self.scales):
            weights = [self.factor * weight for weight in self.mixing.weights]
            return tuple(w * s.multiplier for w, s in zip(weights, self.scales, strict=True))
        return None

    def to_dict(self) -> dict[str, Any]:
        """All parts as plain JSON values."""
        mixing = {"kind": self.mixing.kind, **asdict(self.mixing)}  # type: ignore[call-overload]
        described = {
            "scales": [asdict(scale) for scale in self.scales],
            "mixing": mixing,
            "feature_weights": self.feature_weights,
            "origin": self.origin,
            "factor": self.factor,
        }
        plain: dict[str, Any] = json.loads(json.dumps(described))
        return plain


def identity_fusion() -> Fusion:
    """The fusion of a single teacher: its probabilities and features are not changed.

    Example:
        >>> fused_BC = identity_fusion().logits([torch.tensor([[1.0, -2.0]])])
        >>> round(float(fused_BC[0, 0] - fused_BC[0, 1]), 4)
        3.0
    """
    return Fusion((Scale(),), LogPool((1.0,)), (1.0,), "one teacher, unchanged")
