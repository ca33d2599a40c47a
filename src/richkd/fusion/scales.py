"""The scales that ``fusion.scale`` can name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from richkd.config.choices import SCALES
from richkd.fusion.scale import Scale
from richkd.metrics.multipliers import fit_multipliers

FixedScale = Callable[[float], Scale]
FittedScale = Callable[[Tensor, Tensor, float], Scale]


@dataclass(frozen=True)
class KindOfScale:
    """How a teacher's scale is made; exactly one of the two is given.

    Attributes:
        fixed: from the teacher's own logit scale.
        fitted: from its logits (N, C) of held-out images, their labels (N), and its own logit scale, which is
            the center of the prior.
    """

    fixed: FixedScale | None = None
    fitted: FittedScale | None = None

    def scales(
        self, logit_scales: Sequence[float], logits: Sequence[Tensor] | None, labels_N: Tensor | None
    ) -> tuple[Scale, ...]:
        """The scale of each teacher; logits and labels of held-out images are needed if it is fitted."""
        if self.fixed is not None:
            return tuple(map(self.fixed, logit_scales))
        assert self.fitted is not None
        assert logits is not None
        assert labels_N is not None
        return tuple(
            self.fitted(logits_NC, labels_N, logit_scale)
            for logits_NC, logit_scale in zip(logits, logit_scales, strict=True)
        )


def _raw(logit_scale: float) -> Scale:
    return Scale()


def _temperature(logits_NC: Tensor, labels_N: Tensor, logit_scale: float) -> Scale:
    return Scale(fit_multipliers([Scale().prepared(logits_NC)], labels_N, (logit_scale,))[0])


def _zscore(logits_NC: Tensor, labels_N: Tensor, logit_scale: float) -> Scale:
    plain = Scale(standardized=True)
    # The center gives standardized logits the mean spread of the teacher's own.
    spread = logit_scale * float(logits_NC.double().std(dim=1, correction=0).mean())
    center = spread if spread > 0 else 1.0
    return Scale(fit_multipliers([plain.prepared(logits_NC)], labels_N, (center,))[0], standardized=True)


SCALES.register("temperature", "each teacher calibrated: a temperature fitted on held-out images")(
    KindOfScale(fitted=_temperature)
)
SCALES.register("logit-scale", "each teacher at its own logit scale (CLIP: about 100)")(KindOfScale(Scale))
SCALES.register("raw", "raw logits and cosines, as the published code adds them")(KindOfScale(_raw))
SCALES.register("zscore", "standardized within each image, then calibrated", experimental=True)(
    KindOfScale(fitted=_zscore)
)
