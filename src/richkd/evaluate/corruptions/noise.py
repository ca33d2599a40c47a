"""Noise of single values: gaussian, shot, impulse and speckle.

A corrupted value depends on its own old value alone, and both are bytes. So each kind is a table: for every
old value the 65,536 equally likely new ones in rising order, its quantile function. A draw is then one
random word and one look-up, whatever the distribution. Two probabilities that differ by less than 2⁻¹⁶
are the same to such a table.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from richkd.evaluate.corruptions.draws import Draws

WORDS = 1 << 16
VALUES = 256


def gaussian_noise(pixels_BHWC: Tensor, draws: Draws, sigma: float) -> Tensor:
    """``x + σ·N(0, 1)``."""
    return _drawn(pixels_BHWC, draws, "gaussian", sigma)


def speckle_noise(pixels_BHWC: Tensor, draws: Draws, sigma: float) -> Tensor:
    """``x + x·σ·N(0, 1)``."""
    return _drawn(pixels_BHWC, draws, "speckle", sigma)


def shot_noise(pixels_BHWC: Tensor, draws: Draws, photons: float) -> Tensor:
    """``Poisson(x · photons) / photons``."""
    return _drawn(pixels_BHWC, draws, "shot", photons)


def impulse_noise(pixels_BHWC: Tensor, draws: Draws, share: float) -> Tensor:
    """A share of all values becomes 0 or 1, equally often."""
    return _drawn(pixels_BHWC, draws, "impulse", share)


def _drawn(pixels_BHWC: Tensor, draws: Draws, kind: str, strength: float) -> Tensor:
    table_P = quantile_table(kind, strength).to(pixels_BHWC.device)
    places = pixels_BHWC.to(torch.int32) * WORDS + draws.words(tuple(pixels_BHWC.shape[1:]))
    drawn_P = table_P.index_select(0, places.flatten())
    return drawn_P.view(pixels_BHWC.shape)


@lru_cache(maxsize=4)
def quantile_table(kind: str, strength: float) -> Tensor:
    """New bytes (256 · 65,536, uint8) by old value and random word."""
    old_V1 = torch.arange(VALUES)[:, None].double() / (VALUES - 1)
    middles_W = (torch.arange(WORDS).double() + 0.5) / WORDS
    if kind == "gaussian":
        new_VW = old_V1 + strength * torch.special.ndtri(middles_W)
    elif kind == "speckle":
        new_VW = old_V1 * (1 + strength * torch.special.ndtri(middles_W))
    elif kind == "shot":
        new_VW = _poisson_quantiles(old_V1 * strength, middles_W) / strength
    else:
        kept_VW = torch.where(middles_W < strength / 2, 0.0, old_V1)
        new_VW = torch.where(middles_W >= 1 - strength / 2, 1.0, kept_VW)
    bytes_VW: Tensor = (new_VW.clamp(0, 1) * 255).round()
    return bytes_VW.to(torch.uint8).flatten()


def _poisson_quantiles(rates_V1: Tensor, middles_W: Tensor) -> Tensor:
    most = float(rates_V1.max())
    counts_K = torch.arange(int(most + 12 * most**0.5 + 12)).double()
    # P(X ≤ k) is the upper regularized gamma function of (k + 1, rate), and 1 at rate 0.
    below_VK = torch.special.gammaincc(counts_K + 1, rates_V1)
    return torch.searchsorted(below_VK, middles_W.expand(len(rates_V1), -1).contiguous()).double()
