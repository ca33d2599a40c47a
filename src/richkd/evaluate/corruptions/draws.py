"""Random numbers for each image: a function of (its pixels, corruption, severity, seed).

An image is therefore corrupted in the same way in any batch, order, subset or process. Two identical images
are corrupted in the same way too.
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
    """Random streams for a batch of images, one key for each image.

    Every call restarts the streams at key + ``number``: calls with the same number and shape return the same
    values, calls with different numbers return independent values. The generator of the CPU is used for all
    devices, so values do not depend on the device.

    Example:
        >>> draws = Draws(keys=(1, 2), device=torch.device("cpu"))
        >>> bool((draws.uniform((4,)) == draws.uniform((4,))).all())
        True
        >>> bool((draws.uniform((4,)) == draws.uniform((4,), number=1)).any())
        False
    """

    keys: tuple[int, ...]
    device: torch.device

    def uniform(self, shape: tuple[int, ...], number: int = 0) -> Tensor:
        """Float32 values (B, *shape), uniform in [0, 1).

        Example:
            >>> values = Draws((1, 2), torch.device("cpu")).uniform((100,))
            >>> list(values.shape), bool(((values >= 0) & (values < 1)).all())
            ([2, 100], True)
        """
        return self._each(number, lambda stream: torch.rand(shape, generator=stream))

    def normal(self, shape: tuple[int, ...], number: int = 0) -> Tensor:
        """Float32 values (B, *shape), normal with mean 0 and standard deviation 1.

        Example:
            >>> values = Draws((1, 2), torch.device("cpu")).normal((5000,))
            >>> abs(float(values.mean())) < 0.05, abs(float(values.std()) - 1) < 0.05
            (True, True)
        """
        return self._each(number, lambda stream: torch.randn(shape, generator=stream))

    def words(self, shape: tuple[int, ...], number: int = 0) -> Tensor:
        """Integers (B, *shape), uniform in [0, 65536), as int32.

        Example:
            >>> words = Draws((1, 2), torch.device("cpu")).words((100,))
            >>> list(words.shape), bool(((words >= 0) & (words < 65536)).all())
            ([2, 100], True)
        """
        return self._each(
            number, lambda stream: torch.randint(1 << 16, shape, generator=stream, dtype=torch.int32)
        )

    def _each(self, number: int, draw: Callable[[torch.Generator], Tensor]) -> Tensor:
        # One generator for all images: setting its seed is faster than creating a generator for each image.
        stream = torch.Generator()
        return torch.stack([draw(stream.manual_seed(key + number)) for key in self.keys]).to(self.device)


def draws_for(pixels_BHWC: Tensor, corruption: str, severity: int, seed: int) -> Draws:
    """The random streams of uint8 images under one corruption.

    Example:
        >>> pixels = torch.arange(24, dtype=torch.uint8).view(2, 2, 2, 3)
        >>> both = draws_for(pixels, "fog", severity=1, seed=0).uniform((3,))
        >>> second = draws_for(pixels[1:], "fog", severity=1, seed=0).uniform((3,))
        >>> bool((both[1] == second[0]).all()), bool((both[0] == both[1]).any())
        (True, False)
    """
    place = mix_seed(seed, "corruption", corruption, severity)
    keys = tuple(mix_seed(place, key) for key in _hashes(pixels_BHWC).tolist())
    return Draws(keys, pixels_BHWC.device)


def _hashes(pixels_BHWC: Tensor) -> Tensor:
    """One int64 for each image: Σ word · odd random weight modulo 2⁶⁴, over words of eight bytes."""
    bytes_BP = pixels_BHWC.flatten(1)
    bytes_BP = functional.pad(bytes_BP, (0, -bytes_BP.shape[1] % 8))
    words_BQ = bytes_BP.contiguous().view(torch.int64)
    stream = torch.Generator().manual_seed(0)
    weights_Q = torch.randint(-(1 << 62), 1 << 62, (words_BQ.shape[1],), generator=stream) * 2 + 1
    return (words_BQ * weights_Q.to(pixels_BHWC.device)).sum(dim=1)
