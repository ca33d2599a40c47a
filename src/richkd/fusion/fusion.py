"""Fusion: the logits and features of several teachers become one target."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor

from richkd.config.choices import MIXINGS, SCALES
from richkd.config.schema import FusionConfig
from richkd.core.errors import ConfigError, DataError
from richkd.core.numerics import kl_nats
from richkd.core.types import UNLABELED, Output, Target
from richkd.fusion.feature_scale import FeatureScale
from richkd.fusion.fit import fit_inverse_temperature
from richkd.fusion.mixing import LinearPool, LogPool, Mixing
from richkd.fusion.mixings import ALPHA, AUTO, WayOfMixing
from richkd.fusion.ood import OodWeights
from richkd.fusion.scale import Scale, on_scales
from richkd.fusion.select import choose

PAPER_ALPHA = 0.7
# Half-precision probabilities of many classes sum to one within about this.
SUM_TOLERANCE = 1e-3


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

    Example:
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

    def __call__(self, teachers: Sequence[Output], labels_B: Tensor) -> Target:
        """The target of a batch; images with label `UNLABELED` get the out-of-distribution weights."""
        logits = [teacher.logits_BC for teacher in teachers]
        if self.features is not None:
            scaled = zip(logits, self.features, teachers, strict=True)
            teachers = [Output(z_BC, scale(teacher.feats_BF)) for z_BC, scale, teacher in scaled]
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


@dataclass(frozen=True)
class HeldOut:
    """Logits for images that no teacher was trained on; the fusion is fitted on them.

    Attributes:
        names: name of each teacher.
        logits: logits (N, C) of each teacher.
        labels_N: labels of the images.
        split: name of the split that the images come from.

    Raises:
        DataError: there are no images, or values of a teacher are not finite or are probabilities.

    Example:
        >>> str(HeldOut(["a"], [torch.tensor([[2.0, -1.0]])], torch.tensor([0]), "val"))
        '1 images of val'
    """

    names: Sequence[str]
    logits: Sequence[Tensor]
    labels_N: Tensor
    split: str

    def __post_init__(self) -> None:
        if not len(self.labels_N):
            raise DataError(
                "Fusion is fitted on held-out images",
                got=f"none in {self.split}",
                fix="give --data.calibration DIR or a larger --data.val_fraction.",
            )
        for name, logits_NC in zip(self.names, self.logits, strict=True):
            assert logits_NC.shape[0] == len(self.labels_N)
            bad_N = ~logits_NC.isfinite().all(dim=1)
            if bad_N.any():
                raise DataError(
                    f"Outputs of a teacher for {self.split} must be finite; those of '{name}' are not",
                    got=f"NaN or infinity for {int(bad_N.sum())} of {len(bad_N)} images",
                    fix="check its weights, or compute them with --train.teacher_precision fp32.",
                )
            sums_N = logits_NC.double().sum(dim=1)
            if bool((logits_NC >= 0).all()) and bool(((sums_N - 1).abs() < SUM_TOLERANCE).all()):
                raise DataError(
                    f"A teacher must return logits or log-probabilities; teacher '{name}' does not",
                    got="probabilities: no value is negative, and each row sums to one",
                    fix="use the values before its softmax, or the logarithm of the probabilities.",
                )

    def __str__(self) -> str:
        return f"{len(self.labels_N)} images of {self.split}"


def identity_fusion() -> Fusion:
    """The fusion of a single teacher: its probabilities and features are not changed.

    Example:
        >>> fused_BC = identity_fusion().logits([torch.tensor([[1.0, -2.0]])])
        >>> round(float(fused_BC[0, 0] - fused_BC[0, 1]), 4)
        3.0
    """
    return Fusion((Scale(),), LogPool((1.0,)), (1.0,), "one teacher, unchanged")


def average_fusion(
    logit_scales: Sequence[float], feature_alpha: float | None = None, *, clip: bool = True
) -> Fusion:
    """The mean of the teachers' probabilities, each at its own logit scale; nothing is fitted.

    It stands for the target of terms that read each teacher by itself, in figures of the target.

    Args:
        logit_scales: factor that turns each teacher's logits into those of its own probabilities.
        feature_alpha: share of the vision teachers' features.
        clip: whether the last teacher is a CLIP.

    Example:
        >>> logits = [torch.tensor([[0.9, 0.1]]).log(), torch.tensor([[0.005, -0.005]])]
        >>> fused_BC = average_fusion([1.0, 100.0]).logits(logits)  # 0.9 and 0.731
        >>> [round(p, 3) for p in fused_BC.exp()[0].tolist()]
        [0.816, 0.184]
    """
    teachers = len(logit_scales)
    return Fusion(
        tuple(Scale(scale) for scale in logit_scales),
        LinearPool((1 / teachers,) * teachers),
        alpha_shares(feature_alpha, teachers, clip=clip),
        "mean of probabilities, because terms read each teacher by itself",
    )


def needs_held_out(config: FusionConfig) -> bool:
    """Whether any part of a fusion has to be fitted.

    Example:
        >>> needs_held_out(FusionConfig()), needs_held_out(FusionConfig(preset="paper"))
        (True, False)
    """
    scale, mixing = scale_and_mixing(config)
    fitted = SCALES[scale].fitted is not None or MIXINGS[mixing].fixed is None
    return fitted and config.weights is None


def fuse(
    config: FusionConfig,
    logit_scales: Sequence[float],
    held_out: HeldOut | None,
    *,
    clip: bool = True,
    weights: str = "fusion.weights",
) -> Fusion:
    """The fusion that the settings describe, fitted where they ask for it.

    A preset is a scale and a way of mixing; each can also be set separately. ``paper``: every teacher at its
    own logit scale, alpha 0.7. ``as-released``: the same alpha on raw cosines, as in the published code.
    ``default``: every teacher calibrated, and the mixing selected on held-out images (`choose`). A single
    teacher is brought to its scale only.

    Args:
        config: preset, scale, mixing, alpha, feature_alpha, or given multipliers.
        logit_scales: factor that turns each teacher's logits into those of its own probabilities.
        held_out: required if `needs_held_out`.
        clip: whether the last teacher is a CLIP, whose share is 1 − alpha; otherwise all shares are equal.
        weights: name of the setting of given multipliers, for the error.

    Raises:
        ConfigError: the number of weights is not the number of teachers.

    Example:
        >>> fusion = fuse(FusionConfig(preset="paper", alpha=0.5), [1.0, 100.0], None)
        >>> fusion.origin, fusion.multipliers
        ('alpha 0.5, scale logit-scale', (0.5, 50.0))
    """
    teachers = len(logit_scales)
    features = alpha_shares(config.feature_alpha, teachers, clip=clip)
    if config.weights is not None:
        if len(config.weights) != teachers:
            raise ConfigError(
                f"{weights} must hold one multiplier for each teacher (vision teachers, then CLIP)",
                got=f"{len(config.weights)} for {teachers} teachers",
                fix="give as many numbers as there are teachers.",
            )
        return Fusion((Scale(),) * teachers, LogPool(config.weights), features, "given multipliers")
    scale, mixing = scale_and_mixing(config)
    logits, labels_N = (None, None) if held_out is None else (held_out.logits, held_out.labels_N)
    scales = SCALES[scale].scales(logit_scales, logits, labels_N)
    if teachers == 1:
        return Fusion(scales, LogPool((1.0,)), (1.0,), f"one teacher, scale {scale}")
    way: WayOfMixing = MIXINGS[mixing]
    shares = alpha_shares(config.alpha, teachers, clip=clip)
    if way.fixed is not None:
        origin = f"{_shares_in_words(mixing, shares, clip=clip)}, scale {scale}"
        return Fusion(scales, way.fixed(shares), features, origin)
    assert held_out is not None
    logs = on_scales(scales, held_out.logits)
    if way.fit is None:
        choice = choose(logs, held_out.labels_N, held_out.names, shares)
        return Fusion(
            scales, choice.mixing, features, f"{choice.name}, selected on {held_out}, scale {scale}"
        )
    fitted = way.fit(logs, held_out.labels_N, shares)
    return Fusion(scales, fitted, features, f"{mixing}, fitted on {held_out}, scale {scale}")


_PRESETS = {
    "default": ("temperature", AUTO),
    "paper": ("logit-scale", ALPHA),
    "as-released": ("raw", ALPHA),
}


def scale_and_mixing(config: FusionConfig) -> tuple[str, str]:
    """The names of the scale and of the mixing: those of the preset where no others are given.

    Example:
        >>> scale_and_mixing(FusionConfig(preset="paper", scale="raw"))
        ('raw', 'alpha')
    """
    scale, mixing = _PRESETS[config.preset]
    # A given alpha selects the mixing that reads it.
    mixing = ALPHA if config.alpha is not None else mixing
    return config.scale or scale, config.mixing or mixing


def _shares_in_words(mixing: str, shares: tuple[float, ...], *, clip: bool) -> str:
    if mixing != ALPHA:
        return mixing
    return f"alpha {1 - shares[-1]:.4g}" if clip else "equal shares"


def alpha_shares(alpha: float | None, num_teachers: int, *, clip: bool = True) -> tuple[float, ...]:
    """Share of each teacher: 1 − α for the CLIP, which is last, and α in equal parts for the others.

    Without a CLIP, all shares are equal. The default of α is 0.7 (paper).

    Example:
        >>> alpha_shares(0.5, 3), alpha_shares(None, 2, clip=False)
        ((0.25, 0.25, 0.5), (0.5, 0.5))
    """
    if num_teachers == 1 or not clip:
        return (1 / num_teachers,) * num_teachers
    alpha = PAPER_ALPHA if alpha is None else alpha
    return (*(alpha / (num_teachers - 1),) * (num_teachers - 1), 1 - alpha)


@dataclass(frozen=True)
class TargetShift:
    """How much a fused target differs from the target of some teachers alone at any temperature.

    Attributes:
        nats: mean KL divergence between the fused target and the closest tempered target of the teachers
            alone.
        multiplier: inverse temperature of that closest target, which is also the target of the control.
    """

    nats: float
    multiplier: float


def first_alone(fusion: Fusion, count: int, multiplier: float = 1.0) -> Fusion:
    """The fusion of the first ``count`` teachers without the rest.

    One teacher: its logits, unchanged. Several: the mean of their scaled log-probabilities. The result is
    multiplied. What is not about mixing stays as it is: the weights of unusual images, and the scales of
    features.

    Example:
        >>> logits = [torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 9.0]])]
        >>> fusion = fuse(FusionConfig(weights=(0.5, 0.5)), [1.0, 1.0], None)
        >>> logits_BC = first_alone(fusion, 1, multiplier=3.0).logits(logits[:1])
        >>> round(float(logits_BC[0, 0] - logits_BC[0, 1]), 4)
        3.0
    """
    scales = (Scale(),) if count == 1 else fusion.scales[:count]
    pool = LogPool((multiplier / count,) * count)
    return _part(fusion, slice(count), scales, pool, (1 / count,) * count)


def last_alone(fusion: Fusion) -> Fusion:
    """The last teacher without the rest, at its scale; everything else stays as in `first_alone`.

    Example:
        >>> fusion = fuse(FusionConfig(preset="paper"), [1.0, 100.0], None)
        >>> last_alone(fusion).multipliers
        (100.0,)
    """
    return _part(fusion, slice(-1, None), fusion.scales[-1:], LogPool((1.0,)), (1.0,))


def _part(
    fusion: Fusion, teachers: slice, scales: tuple[Scale, ...], mixing: Mixing, shares: tuple[float, ...]
) -> Fusion:
    return replace(
        fusion,
        scales=scales,
        mixing=mixing,
        feature_weights=shares,
        ood_weights=None if fusion.ood_weights is None else fusion.ood_weights.only(teachers),
        features=None if fusion.features is None else fusion.features[teachers],
        factor=1.0,
    )


def measure_target_shift(fused_NC: Tensor, first_NC: Tensor, temperature: float) -> TargetShift:
    """``min_β mean KL(softmax(z_F / T) ‖ softmax(β z_1 / T))``: the part that no temperature explains.

    Args:
        fused_NC: logits z_F of the fused target.
        first_NC: logits z_1 of the teachers alone, from `first_alone`.
        temperature: T of the loss that reads the target.

    Example:
        >>> logits_NC = torch.tensor([[2.0, 0.0, -1.0], [0.0, 1.0, 0.5]])
        >>> shift = measure_target_shift(3 * logits_NC, logits_NC, temperature=4.0)
        >>> round(abs(shift.nats), 6), round(shift.multiplier, 3)  # only the temperature differs
        (0.0, 3.0)
    """
    fused_NC, first_NC = fused_NC.double() / temperature, first_NC.double() / temperature
    multiplier = fit_inverse_temperature(first_NC, fused_NC.softmax(dim=1))
    return TargetShift(float(kl_nats(fused_NC, multiplier * first_NC).mean()), multiplier)
