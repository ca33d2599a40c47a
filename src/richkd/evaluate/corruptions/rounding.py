"""From values in 0..1 to 256 levels: truncated where the published code truncates, rounded where it rounds.

NumPy truncates when values are converted to bytes. Pillow, libjpeg and ImageMagick round. For a weak blur of
small images the difference is a tenth of the change.
"""

from __future__ import annotations

import torch
from torch import Tensor

LEVELS = 255
# Values this close below a level have that level: rounding errors of float32 must not darken a pixel that did
# not change.
SLACK = 2**-9


def truncated(image: Tensor) -> Tensor:
    """The nearest level below, as values in 0..1; values outside 0..1 are clipped.

    Example:
        >>> (truncated(torch.tensor([0.5, 100 / 255 - 1e-7, 1.2, -0.1])) * 255).round().tolist()
        [127.0, 100.0, 255.0, 0.0]
    """
    return (image.clamp(0, 1) * LEVELS + SLACK).floor() / LEVELS


def rounded(image: Tensor) -> Tensor:
    """The nearest level, as values in 0..1; values outside 0..1 are clipped.

    Example:
        >>> (rounded(torch.tensor([0.5, 0.499, 1.2, -0.1])) * 255).round().tolist()
        [128.0, 127.0, 255.0, 0.0]
    """
    return (image.clamp(0, 1) * LEVELS).round() / LEVELS


def as_bytes(image: Tensor) -> Tensor:
    """Truncated levels as uint8 in 0..255.

    Example:
        >>> as_bytes(torch.tensor([0.5, 1.2])).tolist()
        [127, 255]
    """
    return (image.clamp(0, 1) * LEVELS + SLACK).floor().to(torch.uint8)
