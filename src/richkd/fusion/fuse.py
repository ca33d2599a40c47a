"""Make the fusion that the settings describe."""

from __future__ import annotations

from collections.abc import Sequence

from richkd.config.choices import MIXINGS, SCALES
from richkd.config.schema import FusionConfig
from richkd.core.errors import ConfigError
from richkd.fusion.fusion import Fusion
from richkd.fusion.held_out import HeldOut
from richkd.fusion.mixing import LinearPool, LogPool
from richkd.fusion.mixings import ALPHA, WayOfMixing
from richkd.fusion.presets import alpha_shares, scale_and_mixing
from richkd.fusion.scale import Scale, on_scales
from richkd.fusion.select import choose
from richkd.fusion.shares import equal_shares


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
        ConfigError: the number of weights is not the number of teachers, or a fitted mixing starts from an
            alpha that leaves a teacher out.

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
    _refuse_no_share(shares, mixing)
    logs = on_scales(scales, held_out.logits)
    if way.fit is None:
        choice = choose(logs, held_out.labels_N, held_out.names, shares)
        origin = f"{choice.name}, selected on {held_out}, scale {scale}"
        return Fusion(scales, choice.mixing, features, origin, fitted=True)
    fitted = way.fit(logs, held_out.labels_N, shares)
    origin = f"{mixing}, fitted on {held_out}, scale {scale}"
    return Fusion(scales, fitted, features, origin, fitted=True)


def _refuse_no_share(shares: Sequence[float], mixing: str) -> None:
    """Refuse shares of zero where multipliers are fitted, because these are factors of the shares."""
    if min(shares) <= 0:
        raise ConfigError(
            f"fusion.alpha must be above 0 and below 1 for the mixing {mixing}, which is fitted from there",
            got=f"shares {', '.join(f'{share:g}' for share in shares)}",
            fix="leave out fusion.alpha, or set fusion.mixing to alpha.",
        )


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
        >>> import torch
        >>> logits = [torch.tensor([[0.9, 0.1]]).log(), torch.tensor([[0.005, -0.005]])]
        >>> fused_BC = average_fusion([1.0, 100.0]).logits(logits)  # 0.9 and 0.731
        >>> [round(p, 3) for p in fused_BC.exp()[0].tolist()]
        [0.816, 0.184]
    """
    teachers = len(logit_scales)
    return Fusion(
        tuple(Scale(scale) for scale in logit_scales),
        LinearPool(equal_shares(teachers)),
        alpha_shares(feature_alpha, teachers, clip=clip),
        "mean of probabilities, because terms read each teacher by itself",
    )


def _shares_in_words(mixing: str, shares: tuple[float, ...], *, clip: bool) -> str:
    if mixing != ALPHA:
        return mixing
    return f"alpha {1 - shares[-1]:.4g}" if clip else "equal shares"
