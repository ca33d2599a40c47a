"""Random numbers of each image by itself: a function of (its pixels, corruption, severity, seed).

An image is so corrupted alike in any batch, order, subset or process, and an image that occurs twice is
corrupted alike twice.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from richkd.core.seeds import mix_seed


@dataclass(frozen=True)
class Draws:
    """Streams of a batch of images, one key each; each draw starts every stream anew, under its own number.

    Numbers come from the CPU's generator whatever the device, so they are the same on all.
    """

    keys: tuple[int, ...]
    device: torch.device

    def uniform(self, shape: tuple[int, ...], number: int = 0) -> Tensor:
        """(B, *shape) in [0, 1)."""
        return self._each(number, lambda stream: torch.rand(shape, generator=stream))

    def normal(self, shape: tuple[int, ...], number: int = 0) -> Tensor:
        """(B, *shape) of mean 0 and deviation 1."""
        return self._each(number, lambda stream: torch.randn(shape, generator=stream))

    def words(self, shape: tuple[int, ...], number: int = 0) -> Tensor:
        """(B, *shape) of integers in [0, 65536), as int32."""
        return self._each(
            number, lambda stream: torch.randint(1 << 16, shape, generator=stream, dtype=torch.int32)
        )

    def _each(self, number: int, draw: Callable[[torch.Generator], Tensor]) -> Tensor:
        # One generator for all: setting its seed costs less than making another.
        stream = torch.Generator()
        return torch.stack([draw(stream.manual_seed(key + number)) for key in self.keys]).to(self.device)


def draws_for(pixels_BHWC: Tensor, corruption: str, severity: int, seed: int) -> Draws:
    """The streams of uint8 images under one corruption."""
    place = mix_seed(seed, "corruption", corruption, severity)
    keys = tuple(mix_seed(place, key) for key in _hashes(pixels_BHWC).tolist())
    return Draws(keys, pixels_BHWC.device)


def _hashes(pixels_BHWC: Tensor) -> Tensor:
    """A number for each image (B, int64): Σ word · odd random weight modulo 2⁶⁴, in words of eight bytes."""
    bytes_BP = pixels_BHWC.flatten(1)
    bytes_BP = functional.pad(bytes_BP, (0, -bytes_BP.shape[1] % 8))
    words_BQ = bytes_BP.contiguous().view(torch.int64)
    stream = torch.Generator().manual_seed(0)
    weights_Q = torch.randint(-(1 << 62), 1 << 62, (words_BQ.shape[1],), generator=stream) * 2 + 1
    return (words_BQ * weights_Q.to(pixels_BHWC.device)).sum(dim=1)
