"""The framing of pictures as part of a network's graph, with the same pixels as Pillow's.

No interchange format has an operation that resizes as Pillow does: ONNX's ``Resize`` has no Lanczos, Hamming
and rounding of pixels, and runtimes differ in what they implement of the rest. So both passes are products
with matrices of weights. The graph computes these from the height and the width of its input.
"""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from richkd.data.framing import LONGEST, Framing
from richkd.export.filters import FILTERS

# Pillow rounds weights to multiples of 2⁻²². Products of such weights and pixels need 30 bits, and a float32
# has 24, so that a weight is the sum of two parts: a multiple of 2⁻¹¹ and at most half of that.
BITS, PART = 22, 2.0**11


class FramingGraph(nn.Module):
    """`richkd.data.framing.frame` for a batch of pictures of one size, with whole numbers as results.

    As in Pillow, weights are multiples of 2⁻²², and both passes end in whole numbers from 0 to 255. All sums
    are exact in float32, so the results are those of Pillow in any runtime that has float64 for the weights;
    in others, some values differ by 1.

    Rows are resized first. Recent versions of Pillow resize columns first if that removes more than twice as
    many pixels, as in pictures that are more than twice as high as wide; the graph has a branch for these. If
    a runtime has no branches, some values of such pictures differ by a few units. With the filter
    ``nearest``, a position between two pixels may be rounded otherwise.

    Args:
        framing: the part of the picture, and how it is resized.

    Attributes:
        branches: whether the graph has a branch for pictures whose columns are resized first.

    Example:
        >>> import numpy as np
        >>> from PIL import Image
        >>> from richkd.data.framing import frame
        >>> pixels_HWC = np.arange(20 * 30 * 3, dtype=np.uint8).reshape(20, 30, 3)
        >>> framed_13HW = FramingGraph(Framing(8))(torch.from_numpy(pixels_HWC)[None])
        >>> expected_HWC = np.asarray(frame(Image.fromarray(pixels_HWC), Framing(8)))
        >>> np.array_equal(framed_13HW[0].permute(1, 2, 0).numpy(), expected_HWC)
        True
    """

    def __init__(self, framing: Framing) -> None:
        super().__init__()
        self.framing, self.branches = framing, starts_with_columns()

    def forward(self, images_BHWC: Tensor) -> Tensor:
        """Pixels (B, 3, size, size) in 0..255 as float32, of uint8 pictures (B, H, W, 3)."""
        height, width = (_number(images_BHWC.shape[axis]) for axis in (1, 2))
        least, longest = torch.minimum(height, width), torch.maximum(height, width)
        rows_HP, fewer_rows = self._axis(height, images_BHWC.shape[1], least, longest)
        cols_WP, fewer_cols = self._axis(width, images_BHWC.shape[2], least, longest)
        pixels_B3HW = images_BHWC.permute(0, 3, 1, 2).float()
        if not self.branches:
            return _resize_rows_first(pixels_B3HW, rows_HP, cols_WP)
        columns_first = (fewer_rows > 0) & (fewer_rows > 2 * fewer_cols)
        framed_B3OO: Tensor = torch.cond(
            columns_first, _resize_columns_first, _resize_rows_first, (pixels_B3HW, rows_HP, cols_WP)
        )
        return framed_B3OO

    def _axis(self, side: Tensor, length: int, least: Tensor, longest: Tensor) -> tuple[Tensor, Tensor]:
        """Both parts of the weights (length, 2 · size) of an axis, and by how many pixels it is reduced."""
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
        weights_OL = weights_of(
            self.framing.interpolation, start, side - 2 * start, length, resized, first, size
        )
        # Pillow rounds one half away from zero; no weight is one half of 2⁻²² but by a rare chance.
        units_LO = torch.floor(weights_OL.T * 2.0**BITS + 0.5)
        high_LO = torch.floor(units_LO / PART + 0.5)
        parts_LP = torch.cat([high_LO, units_LO - high_LO * PART], dim=1).float()
        return parts_LP, side - 2 * start - resized


def starts_with_columns() -> bool:
    """Whether the installed Pillow resizes the columns of high pictures first.

    Example:
        >>> starts_with_columns() in (True, False)
        True
    """
    # With these pixels, the order matters.
    pixels_HW = (np.arange(60 * 6) * 7919 % 256).astype(np.uint8).reshape(60, 6)
    image, bicubic = Image.fromarray(pixels_HW), Image.Resampling.BICUBIC
    columns_first = image.resize((6, 20), bicubic).resize((2, 20), bicubic)
    return image.resize((2, 20), bicubic).tobytes() == columns_first.tobytes()


def weights_of(
    interpolation: str, start: Tensor, span: Tensor, length: int, resized: Tensor, first: Tensor, size: int
) -> Tensor:
    """Weights of the pixels of an axis in each pixel of the result, as in Pillow's ``Image.resize``.

    The center of output pixel o is (o + ½) · span / resized, from the left edge of pixel ``start``. The
    filter is widened by span / resized if that is greater than 1. Operations are in the order of Pillow, in
    float64.

    Args:
        interpolation: name of the filter.
        start: first pixel that is read, int64.
        span: number of pixels that are read, int64.
        length: number of pixels of the axis.
        resized: number of pixels of the whole result, int64.
        first: first pixel of the result that is needed, int64.
        size: number of pixels that are needed.

    Returns:
        Weights (size, length), float64; each row sums to 1.

    Example:
        >>> start, span, resized, first = (torch.tensor(number) for number in (0, 2, 1, 0))
        >>> weights_of("bilinear", start, span, 2, resized, first, 1).tolist()
        [[0.5, 0.5]]
    """
    output_O1 = torch.arange(size)[:, None] + first
    source_1L = torch.arange(length)[None, :] - start
    if interpolation == "nearest":
        nearest_O1 = _quotient((2 * output_O1 + 1) * span, 2 * resized)
        return (source_1L == nearest_O1).double()
    filter_of, radius = FILTERS[interpolation]
    scale = span.double() / resized.double()
    widened = scale.clamp(min=1.0)
    center_O1 = (output_O1.double() + 0.5) * scale
    least_O1 = torch.floor(center_O1 - radius * widened + 0.5).clamp(min=0.0)
    most_O1 = torch.minimum(torch.floor(center_O1 + radius * widened + 0.5), span.double())
    source_1L = source_1L.double()
    inside_OL = (source_1L >= least_O1) & (source_1L < most_O1)
    weights_OL = filter_of((source_1L - center_O1 + 0.5) * (1.0 / widened)) * inside_OL.double()
    return weights_OL / weights_OL.sum(dim=1, keepdim=True)


def _resize_rows_first(pixels_B3HW: Tensor, rows_HP: Tensor, cols_WP: Tensor) -> Tensor:
    narrow_B3HO = _rounded_sums(pixels_B3HW, cols_WP)
    return _rounded_sums(narrow_B3HO.transpose(2, 3), rows_HP).transpose(2, 3).contiguous()


def _resize_columns_first(pixels_B3HW: Tensor, rows_HP: Tensor, cols_WP: Tensor) -> Tensor:
    flat_B3WO = _rounded_sums(pixels_B3HW.transpose(2, 3), rows_HP)
    return _rounded_sums(flat_B3WO.transpose(2, 3), cols_WP).contiguous()


def _rounded_sums(pixels_B3XL: Tensor, parts_LP: Tensor) -> Tensor:
    """⌊Σ pixel · weight + ½⌋ in 0..255, exactly, from both parts of the weights in units of 2⁻²²."""
    high_B3XO, low_B3XO = (pixels_B3XL @ parts_LP).chunk(2, dim=3)
    high_B3XO = high_B3XO + PART / 2
    whole_B3XO = torch.floor(high_B3XO / PART)
    rest_B3XO = (high_B3XO - whole_B3XO * PART) * PART + low_B3XO
    return (whole_B3XO + torch.floor(rest_B3XO / 2.0**BITS)).clamp(0, 255)


def _number(length: int) -> Tensor:
    """A length that depends on the input, as a tensor."""
    return torch.scalar_tensor(length, dtype=torch.int64)


def _quotient(a: Tensor, b: Tensor) -> Tensor:
    return torch.div(a, b, rounding_mode="trunc")


def _half(a: Tensor) -> Tensor:
    return torch.div(a, 2, rounding_mode="trunc")
