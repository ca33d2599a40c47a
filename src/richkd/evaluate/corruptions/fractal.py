"""Cloud-like maps by the diamond-square algorithm, for fog and frost."""

from __future__ import annotations

import torch
from torch import Tensor

from richkd.evaluate.corruptions.draws import Draws


def fractal(draws: Draws, size: int, decay: float, number: int = 0) -> Tensor:
    """A cloud-like map (B, 1, S, S) in [0, 1] by the diamond-square algorithm.

    S is ``size``, rounded up to a power of two. At each level the centers of the squares, and then the
    centers of their edges, become the mean of their four neighbors plus uniform noise. The map wraps around
    at its borders. The range of the noise is divided by decay² from each level to the next finer one. Source:
    Fournier, Fussell and Carpenter, "Computer rendering of stochastic models", 1982.

    Args:
        number: selects the random numbers, see `Draws`.

    Example:
        >>> cloud = fractal(Draws((1,), torch.device("cpu")), size=12, decay=2.0)
        >>> list(cloud.shape), float(cloud.min()), float(cloud.max())
        ([1, 1, 16, 16], 0.0, 1.0)
    """
    side = 1 << max(size - 1, 1).bit_length()
    noise_BSS = draws.uniform((side, side), number) * 2 - 1
    map_BSS = torch.zeros_like(noise_BSS)
    step, reach = side, 1.0
    while step >= 2:
        half = step // 2
        corners = map_BSS[:, ::step, ::step]
        pairs = corners + corners.roll(-1, dims=1)
        middles = (pairs + pairs.roll(-1, dims=2)) / 4 + reach * noise_BSS[:, half::step, half::step]
        map_BSS[:, half::step, half::step] = middles
        across = middles + middles.roll(1, dims=1) + corners + corners.roll(-1, dims=2)
        map_BSS[:, ::step, half::step] = across / 4 + reach * noise_BSS[:, ::step, half::step]
        down = middles + middles.roll(1, dims=2) + corners + corners.roll(-1, dims=1)
        map_BSS[:, half::step, ::step] = down / 4 + reach * noise_BSS[:, half::step, ::step]
        step, reach = half, reach / decay**2
    map_BSS = map_BSS - map_BSS.amin(dim=(1, 2), keepdim=True)
    return (map_BSS / map_BSS.amax(dim=(1, 2), keepdim=True).clamp(min=1e-12))[:, None]
