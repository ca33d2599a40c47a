"""How strong a corruption is at severities 1 to 5, for images of any size.

Two sets of constants are published: for images of 32 pixels and for ImageNet's 224 pixels (Hendrycks and
Dietterich, "Benchmarking Neural Network Robustness to Common Corruptions and Perturbations", ICLR 2019).
Between these sizes each constant is interpolated linearly in the logarithm of the size:

    c(size) = c(32) + w · (c(224) − c(32)),   w = ln(size / 32) / ln(224 / 32), clipped to [0, 1].

Smaller images use the constants for 32 pixels, larger images those for 224. A constant that counts something
(pixels of a shift, rounds, JPEG quality) is interpolated in the same way, and rounded by the function that
uses it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from richkd.config.choices import CORRUPTIONS
from richkd.core.errors import ConfigError

SMALL, LARGE = 32, 224
SEVERITIES = (1, 2, 3, 4, 5)

Rows = tuple[tuple[float, ...], ...]


def constants(name: str, severity: int, size: int) -> tuple[float, ...]:
    """The constants of a corruption at one severity, for images of ``size`` pixels.

    Args:
        severity: 1 to 5.
        size: height of the images in pixels.

    Raises:
        ConfigError: no such corruption or severity.

    Example:
        >>> constants("motion_blur", 1, 32), constants("motion_blur", 1, 224)
        ((6.0, 1.0), (10.0, 3.0))
    """
    entry = CORRUPTIONS[name]
    if severity not in SEVERITIES:
        raise ConfigError("A severity is 1, 2, 3, 4 or 5", got=str(severity), fix="choose one of them.")
    return interpolated(entry.small[severity - 1], entry.large[severity - 1], size)


def interpolated(small: Sequence[float], large: Sequence[float], size: int) -> tuple[float, ...]:
    """Constants for ``size`` pixels from those for 32 and for 224 pixels, by the rule of this module.

    Raises:
        ValueError: ``small`` and ``large`` differ in length.

    Example:
        >>> interpolated((1.0,), (3.0,), 16), interpolated((1.0,), (3.0,), 500)
        ((1.0,), (3.0,))
        >>> round(interpolated((1.0,), (3.0,), 85)[0], 1)
        2.0
    """
    weight = min(max(math.log(size / SMALL) / math.log(LARGE / SMALL), 0.0), 1.0)
    return tuple(a + weight * (b - a) for a, b in zip(small, large, strict=True))
