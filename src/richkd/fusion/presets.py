"""Presets: which scale and which mixing a fusion has, and the shares of its teachers."""

from __future__ import annotations

from richkd.config.choices import MIXINGS, SCALES
from richkd.config.schema import FusionConfig
from richkd.fusion.mixings import ALPHA, AUTO
from richkd.fusion.shares import equal_shares

PAPER_ALPHA = 0.7
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


def needs_held_out(config: FusionConfig) -> bool:
    """Whether any part of a fusion has to be fitted.

    Example:
        >>> needs_held_out(FusionConfig()), needs_held_out(FusionConfig(preset="paper"))
        (True, False)
    """
    scale, mixing = scale_and_mixing(config)
    fitted = SCALES[scale].fitted is not None or MIXINGS[mixing].fixed is None
    return fitted and config.weights is None


def alpha_shares(alpha: float | None, num_teachers: int, *, clip: bool = True) -> tuple[float, ...]:
    """Share of each teacher: 1 − α for the CLIP, which is last, and α in equal parts for the others.

    Without a CLIP, all shares are equal. The default of α is 0.7 (paper).

    Example:
        >>> alpha_shares(0.5, 3), alpha_shares(None, 2, clip=False)
        ((0.25, 0.25, 0.5), (0.5, 0.5))
    """
    if num_teachers == 1 or not clip:
        return equal_shares(num_teachers)
    alpha = PAPER_ALPHA if alpha is None else alpha
    return (*(alpha / (num_teachers - 1),) * (num_teachers - 1), 1 - alpha)
