"""The framing of pictures as part of a network's graph, with the filters and the rounding of Pillow.

No interchange format has an operation that resizes as Pillow does: ONNX's ``Resize`` has no Lanczos, Hamming
and rounding of pixels, and runtimes differ in what they implement of the rest. So both passes are products
with matrices of weights. The graph computes these from the height and the width of its input.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from richkd.data.framing import LONGEST, Framing


class FramingGraph(nn.Module):
    """`richkd.data.framing.frame` for a batch of pictures of one size, with whole numbers as results.

    As in Pillow, rows are resized first, and pixels are rounded to 0..255 after both passes. The results are
    those of Pillow, except that a value of one half can be rounded to the other side, because Pillow computes
    in fixed-point numbers: less than 1 in 1,000 values of photos differ by 1 (bilinear: 1 in 100). If
    pictures are squashed more in height than in width, some versions of Pillow resize columns first, so that
    more values differ.

    Args:
        framing: the part of the picture, and how it is resized.

    Example:
        >>> import numpy as np
        >>> from PIL import Image
        >>> from richkd.data.framing import frame
        >>> pixels_HWC = np.arange(20 * 30 * 3, dtype=np.uint8).reshape(20, 30, 3)
        >>> framed_13HW = FramingGraph(Framing(8))(torch.from_numpy(pixels_HWC)[None])
        >>> expected_HWC = np.asarray(frame(Image.fromarray(pixels_HWC), Framing(8)))
        >>> bool(np.abs(framed_13HW[0].permute(1, 2, 0).numpy() - expected_HWC).max() <= 1)
        True
    """

    def __init__(self, framing: Framing) -> None:
        super().__init__()
        self.framing = framing

    def forward(self, images_BHWC: Tensor) -> Tensor:
        """Pixels (B, 3, size, size) in 0..255 as float32, of uint8 pictures (B, H, W, 3)."""
        height, width = (_number(images_BHWC.shape[axis]) for axis in (1, 2))
        least, longest = torch.minimum(height, width), torch.maximum(height, width)
        rows_OH = self._axis(height, images_BHWC.shape[1], least, longest)
        cols_OW = self._axis(width, images_BHWC.shape[2], least, longest)
        pixels_B3HW = images_BHWC.permute(0, 3, 1, 2).float()
        return _rounded(rows_OH @ _rounded(pixels_B3HW @ cols_OW.T))

    def _axis(self, side: Tensor, length: int, least: Tensor, longest: Tensor) -> Tensor:
        """Weights (size, length) of an axis; whole numbers as in `richkd.data.framing.frame`."""
        size, short = self.framing.size, self.framing.resized
        if self.framing.squash:
            start, resized = torch.zeros_like(side), torch.full_like(side, short)
        else:
            keep = 4 * least + 16
            far = (short * longest > LONGEST * least) & (longest > keep)
            start = torch.where(far, _half(side - keep).clamp(min=0), 0)
            resized = _quotient(short * (side - 2 * start), least)
        excess = resized - size
        # Python rounds one half to the even number.
        first = _half(excess) + (excess - 2 * _half(excess)) * (_half(excess) - 2 * _half(_half(excess)))
        return weights_of(self.framing.interpolation, start, side - 2 * start, length, resized, first, size)


def weights_of(
    interpolation: str, start: Tensor, span: Tensor, length: int, resized: Tensor, first: Tensor, size: int
) -> Tensor:
    """Weights of the pixels of an axis in each pixel of the result, as in Pillow's ``Image.resize``.

    Output pixel o is at position (o + ½) · span / resized − ½ of the pixels that start at ``start``. The
    filter is widened by span / resized if that is greater than 1. Distances are quotients of whole numbers,
    so they are exact for pictures of any size.

    Args:
        interpolation: name of the filter.
        start: first pixel that is read, int64.
        span: number of pixels that are read, int64.
        length: number of pixels of the axis.
        resized: number of pixels of the whole result, int64.
        first: first pixel of the result that is needed, int64.
        size: number of pixels that are needed.

    Returns:
        Weights (size, length); each row sums to 1.

    Example:
        >>> start, span, resized, first = (torch.tensor(number) for number in (0, 2, 1, 0))
        >>> weights_of("bilinear", start, span, 2, resized, first, 1).tolist()
        [[0.5, 0.5]]
    """
    output_O1 = torch.arange(size)[:, None] + first
    source_1L = torch.arange(length)[None, :] - start
    inside_1L = (source_1L >= 0) & (source_1L < span)
    if interpolation == "nearest":
        nearest_O1 = _quotient((2 * output_O1 + 1) * span, 2 * resized)
        return (source_1L == nearest_O1).float()
    # The distance in pixels of the result, or of the source if the picture is enlarged.
    distance_OL = (2 * source_1L + 1) * resized - (2 * output_O1 + 1) * span
    distance_OL = distance_OL.float() / (2 * torch.maximum(span, resized)).float()
    weights_OL = FILTERS[interpolation](distance_OL) * inside_1L.float()
    return weights_OL / weights_OL.sum(dim=1, keepdim=True)


def _bilinear(distance: Tensor) -> Tensor:
    return (1 - distance.abs()).clamp(min=0)


def _bicubic(distance: Tensor) -> Tensor:
    x = distance.abs()
    near, far = ((1.5 * x) - 2.5) * x * x + 1, (((x - 5) * x + 8) * x - 4) * -0.5
    return torch.where(x < 1, near, torch.where(x < 2, far, 0.0))


def _lanczos(distance: Tensor) -> Tensor:
    inside = (distance >= -3) & (distance < 3)
    return torch.where(inside, _sinc(distance) * _sinc(distance / 3), 0.0)


def _box(distance: Tensor) -> Tensor:
    return ((distance > -0.5) & (distance <= 0.5)).float()


def _hamming(distance: Tensor) -> Tensor:
    window = 0.54 + 0.46 * torch.cos(math.pi * distance)
    return torch.where(distance.abs() < 1, _sinc(distance) * window, 0.0)


def _sinc(x: Tensor) -> Tensor:
    angle = math.pi * torch.where(x == 0, 1.0, x)
    return torch.where(x == 0, 1.0, torch.sin(angle) / angle)


FILTERS = {
    "bilinear": _bilinear,
    "bicubic": _bicubic,
    "lanczos": _lanczos,
    "box": _box,
    "hamming": _hamming,
}


def _number(length: int) -> Tensor:
    """A length that depends on the input, as a tensor."""
    return torch.scalar_tensor(length, dtype=torch.int64)


def _quotient(a: Tensor, b: Tensor) -> Tensor:
    return torch.div(a, b, rounding_mode="trunc")


def _half(a: Tensor) -> Tensor:
    return torch.div(a, 2, rounding_mode="trunc")


def _rounded(pixels: Tensor) -> Tensor:
    return torch.floor(pixels + 0.5).clamp(0, 255)
