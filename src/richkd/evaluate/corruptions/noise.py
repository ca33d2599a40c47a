"""Noise on single values: Gaussian, shot, impulse and speckle.

The corrupted value depends only on the old value, and both are bytes. Each kind of noise is therefore a table
(its quantile function): for every old value, the 65,536 equally likely new values in rising order. A draw is
one random word and one look-up, whatever the distribution. The resolution of probabilities is 2⁻¹⁶.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor

from richkd.core.errors import ConfigError, nearest
from richkd.evaluate.corruptions.definition import Kind, each, register_corruption
from richkd.evaluate.corruptions.draws import Draws
from richkd.evaluate.corruptions.rounding import as_bytes

WORDS = 1 << 16
VALUES = 256


@register_corruption(
    "gaussian_noise",
    "adds Gaussian noise to every value",
    group="noise",
    kind=Kind.VALUES,
    # Standard deviation.
    small=each(0.04, 0.06, 0.08, 0.09, 0.10),
    large=each(0.08, 0.12, 0.18, 0.26, 0.38),
)
def gaussian_noise(pixels_BHWC: Tensor, draws: Draws, sigma: float) -> Tensor:
    """``x + σ · N(0, 1)`` on uint8 values, with x in 0..1.

    Example:
        >>> pixels = torch.full((1, 32, 32, 3), 100, dtype=torch.uint8)
        >>> noisy = gaussian_noise(pixels, Draws((1,), torch.device("cpu")), sigma=0.1)
        >>> abs(float(noisy.float().std()) - 25.5) < 1
        True
    """
    return _drawn(pixels_BHWC, draws, "gaussian", sigma)


@register_corruption(
    "shot_noise",
    "replaces every value by a Poisson count of photons",
    group="noise",
    kind=Kind.VALUES,
    # Number of photons of a white pixel.
    small=each(500, 250, 100, 75, 50),
    large=each(60, 25, 12, 5, 3),
)
def shot_noise(pixels_BHWC: Tensor, draws: Draws, photons: float) -> Tensor:
    """``Poisson(x · photons) / photons`` on uint8 values, with x in 0..1.

    Example:
        >>> black = torch.zeros((1, 32, 32, 3), dtype=torch.uint8)
        >>> draws = Draws((1,), torch.device("cpu"))
        >>> int(shot_noise(black, draws, 50).max()), int(shot_noise(black + 100, draws, 50).max()) > 100
        (0, True)
    """
    return _drawn(pixels_BHWC, draws, "shot", photons)


@register_corruption(
    "impulse_noise",
    "replaces a share of the values by black or white",
    group="noise",
    kind=Kind.VALUES,
    # Share of values.
    small=each(0.01, 0.02, 0.03, 0.05, 0.07),
    large=each(0.03, 0.06, 0.09, 0.17, 0.27),
)
def impulse_noise(pixels_BHWC: Tensor, draws: Draws, share: float) -> Tensor:
    """A share of the uint8 values becomes 0 or 255, with equal probability.

    Example:
        >>> pixels = torch.full((1, 32, 32, 3), 100, dtype=torch.uint8)
        >>> impulse_noise(pixels, Draws((1,), torch.device("cpu")), share=0.5).unique().tolist()
        [0, 100, 255]
    """
    return _drawn(pixels_BHWC, draws, "impulse", share)


@register_corruption(
    "speckle_noise",
    "adds Gaussian noise that is proportional to the value",
    group="validation",
    kind=Kind.VALUES,
    # Standard deviation, relative to the value.
    small=each(0.06, 0.1, 0.12, 0.16, 0.2),
    large=each(0.15, 0.2, 0.35, 0.45, 0.6),
)
def speckle_noise(pixels_BHWC: Tensor, draws: Draws, sigma: float) -> Tensor:
    """``x + x · σ · N(0, 1)`` on uint8 values, with x in 0..1.

    Example:
        >>> pixels = torch.full((1, 32, 32, 3), 100, dtype=torch.uint8)
        >>> noisy = speckle_noise(pixels, Draws((1,), torch.device("cpu")), sigma=0.1)
        >>> abs(float(noisy.float().std()) - 10) < 1
        True
    """
    return _drawn(pixels_BHWC, draws, "speckle", sigma)


def _drawn(pixels_BHWC: Tensor, draws: Draws, kind: str, strength: float) -> Tensor:
    table_P = quantile_table(kind, strength).to(pixels_BHWC.device)
    places = pixels_BHWC.to(torch.int32) * WORDS + draws.words(tuple(pixels_BHWC.shape[1:]))
    drawn_P = table_P.index_select(0, places.flatten())
    return drawn_P.view(pixels_BHWC.shape)


@lru_cache(maxsize=4)
def quantile_table(kind: str, strength: float) -> Tensor:
    """New bytes (256 · 65,536, uint8) by old value and random word.

    Args:
        kind: ``"gaussian"``, ``"shot"``, ``"impulse"`` or ``"speckle"``.
        strength: the constant of the noise function of this kind.

    Raises:
        ConfigError: no such kind.

    Example:
        >>> table = quantile_table("impulse", 0.5).view(256, 65536)
        >>> [int(table[100, word]) for word in (0, 32768, 65535)]
        [0, 100, 255]
    """
    if kind not in _QUANTILES:
        raise ConfigError(f"There is no kind of noise '{kind}'", fix=nearest(kind, _QUANTILES))
    old_V1 = torch.arange(VALUES)[:, None].double() / (VALUES - 1)
    middles_W = (torch.arange(WORDS).double() + 0.5) / WORDS
    return _QUANTILES[kind](old_V1, middles_W, strength).flatten()


def _gaussian(old_V1: Tensor, middles_W: Tensor, sigma: float) -> Tensor:
    deviates_W: Tensor = torch.special.ndtri(middles_W)
    return as_bytes(old_V1.float() + (sigma * deviates_W).float())


def _speckle(old_V1: Tensor, middles_W: Tensor, sigma: float) -> Tensor:
    deviates_W: Tensor = torch.special.ndtri(middles_W)
    return as_bytes(old_V1.float() * (1 + sigma * deviates_W).float())


def _impulse(old_V1: Tensor, middles_W: Tensor, share: float) -> Tensor:
    new_VW = as_bytes(old_V1).repeat(1, len(middles_W))
    new_VW[:, middles_W < share / 2] = 0
    new_VW[:, middles_W >= 1 - share / 2] = 255
    return new_VW


def _shot(old_V1: Tensor, middles_W: Tensor, photons: float) -> Tensor:
    counts_K = torch.arange(int(photons + 12 * photons**0.5 + 12)).double()
    # P(X ≤ k) is the upper regularized gamma function of (k + 1, rate), and 1 at rate 0.
    below_VK = torch.special.gammaincc(counts_K + 1, old_V1 * photons)
    # How many of the probabilities are at most P(X ≤ k).
    words_VK = (below_VK * len(middles_W) + 0.5).floor().long()
    words_VK[:, -1] = len(middles_W)
    times_VK = words_VK.diff(dim=1, prepend=torch.zeros_like(words_VK[:, :1]))
    new_Q = as_bytes(counts_K / photons).repeat(len(old_V1))
    return new_Q.repeat_interleave(times_VK.flatten()).view(len(old_V1), -1)


# By kind of noise: new bytes (V, W) from old values (V, 1) in 0..1, probabilities (W,) and the strength.
_QUANTILES: dict[str, Callable[[Tensor, Tensor, float], Tensor]] = {
    "gaussian": _gaussian,
    "shot": _shot,
    "impulse": _impulse,
    "speckle": _speckle,
}
