"""Digital: contrast, elastic transform, pixelate, JPEG and saturate. Images are (B, 3, H, W) in 0..1."""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional

from richkd.evaluate.corruptions.definition import Kind, each, register_corruption
from richkd.evaluate.corruptions.draws import Draws
from richkd.evaluate.corruptions.linear import box_matrix, gaussian_matrix, interpolation_matrix, separable
from richkd.evaluate.corruptions.rounding import rounded

BLOCK = 8
# Tables K.1 and K.2 of ITU-T T.81; libjpeg scales them by quality.
LUMINANCE = (
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)
CHROMINANCE = (
    (17, 18, 24, 47, 99, 99, 99, 99),
    (18, 21, 26, 66, 99, 99, 99, 99),
    (24, 26, 56, 99, 99, 99, 99, 99),
    (47, 66, 99, 99, 99, 99, 99, 99),
    (99, 99, 99, 99, 99, 99, 99, 99),
    (99, 99, 99, 99, 99, 99, 99, 99),
    (99, 99, 99, 99, 99, 99, 99, 99),
    (99, 99, 99, 99, 99, 99, 99, 99),
)
# Rows: Y, Cb and Cr. Columns: R, G and B (JFIF).
YCC = ((0.299, 0.587, 0.114), (-0.168735892, -0.331264108, 0.5), (0.5, -0.418687589, -0.081312411))


@register_corruption(
    "contrast",
    "reduces the contrast",
    group="digital",
    kind=Kind.FIXED,
    # Factor of the distances from the mean.
    small=each(0.75, 0.5, 0.4, 0.3, 0.15),
    large=each(0.4, 0.3, 0.2, 0.1, 0.05),
)
def contrast(image_B3HW: Tensor, factor: float) -> Tensor:
    """``mean + factor · (x − mean)``, with the mean of each channel over the image.

    Example:
        >>> image = torch.tensor([0.0, 1.0]).expand(1, 3, 2, 2)
        >>> contrast(image, factor=0.5)[0, 0].tolist()
        [[0.25, 0.75], [0.25, 0.75]]
    """
    mean_B311 = image_B3HW.mean(dim=(2, 3), keepdim=True)
    return torch.lerp(mean_B311, image_B3HW, factor)


@register_corruption(
    "elastic_transform",
    "distorts the image like a sheet of rubber",
    group="digital",
    kind=Kind.DRAWN,
    # Strength and smoothness of the displacement, and largest shift of the corners, in widths of the image.
    small=((0, 0, 0.08), (0.05, 0.2, 0.07), (0.08, 0.06, 0.06), (0.1, 0.04, 0.05), (0.1, 0.03, 0.03)),
    # The published constants for 224 pixels are multiples of 244.
    large=tuple(
        tuple(constant * 244 / 224 for constant in row)
        for row in ((2, 0.7, 0.1), (2, 0.08, 0.2), (0.05, 0.01, 0.02), (0.07, 0.01, 0.02), (0.12, 0.01, 0.02))
    ),
)
def elastic_transform(
    image_B3HW: Tensor, draws: Draws, strength: float, smoothness: float, corners: float
) -> Tensor:
    """An affine transform that moves three corners of an inner square, then a smooth random displacement.

    Source of the displacement: Simard, Steinkraus and Platt, "Best practices for convolutional neural
    networks applied to visual document analysis", 2003. The displacement is smoothed as if it
    were mirrored at its edges.

    Args:
        strength: scale of the displacement, in widths of the image; 0 leaves it out.
        smoothness: standard deviation of the Gaussian that smooths the displacement, in widths of the image.
        corners: largest shift of a corner, in widths of the image.

    Example:
        >>> image = torch.linspace(0, 1, 16).expand(1, 3, 16, 16)
        >>> draws = Draws((1,), torch.device("cpu"))
        >>> still, warped = (elastic_transform(image, draws, strength, 0.1, 0.0) for strength in (0.0, 0.5))
        >>> bool(torch.allclose(still, image, atol=1e-5)), bool(torch.allclose(warped, image, atol=1e-5))
        (True, False)
    """
    height, width = image_B3HW.shape[2:]
    image_B3HW = _affine(image_B3HW, (draws.uniform((3, 2)) * 2 - 1) * corners * width)
    if strength == 0:
        return image_B3HW
    fields_B2HW = draws.uniform((2, height, width), number=1) * 2 - 1
    smooth = [gaussian_matrix(size, smoothness * width, 3.0, mirrored_edges=True) for size in (height, width)]
    shift_B2HW = separable(fields_B2HW, *smooth) * strength * width
    return _sampled(image_B3HW, _grid(image_B3HW) + shift_B2HW.movedim(1, -1), mirrored_edges=True)


@register_corruption(
    "pixelate",
    "reduces the resolution",
    group="digital",
    kind=Kind.FIXED,
    # Size of the reduced image, relative to the image.
    small=each(0.95, 0.9, 0.85, 0.75, 0.65),
    large=each(0.6, 0.5, 0.4, 0.3, 0.25),
)
def pixelate(image_B3HW: Tensor, factor: float) -> Tensor:
    """Reduce the image to ``factor`` of its size by means over boxes, and enlarge it by repeating pixels.

    Example:
        >>> image = torch.tensor([0.0, 0.2, 0.4, 0.6]).expand(1, 3, 4, 4)
        >>> [round(value, 2) for value in pixelate(image, factor=0.5)[0, 0, 0].tolist()]
        [0.1, 0.1, 0.5, 0.5]
    """
    size = image_B3HW.shape[2]
    small = max(int(size * factor), 1)
    reduced_B3HW = (image_B3HW * 255).round()
    # Pillow resizes columns, then rows, and rounds half up after each.
    for _ in range(2):
        halfway_B3HW = reduced_B3HW @ box_matrix(size, small).to(reduced_B3HW).T + 0.5
        reduced_B3HW = halfway_B3HW.floor().mT
    reduced_B3HW = reduced_B3HW / 255
    return separable(reduced_B3HW, box_matrix(small, size))


@register_corruption(
    "jpeg_compression",
    "compresses the image as JPEG",
    group="digital",
    kind=Kind.FIXED,
    # Quality of libjpeg, 1 to 100.
    small=each(80, 65, 58, 50, 40),
    large=each(25, 18, 15, 10, 7),
)
def jpeg_compression(image_B3HW: Tensor, quality: float) -> Tensor:
    """JPEG encoding and decoding: chroma at half the resolution, and quantized 8 × 8 cosine coefficients.

    It follows the defaults of libjpeg, except for the rounding inside the integer transforms of libjpeg.

    Args:
        quality: 1 to 100.

    Example:
        >>> gray = torch.full((1, 3, 16, 16), 100 / 255)
        >>> image = torch.rand((1, 3, 16, 16), generator=torch.Generator().manual_seed(0))
        >>> [round(float((jpeg_compression(x, 50) - x).abs().mean()), 1) for x in (gray, image)]
        [0.0, 0.2]
    """
    height, width = image_B3HW.shape[2:]
    pad = (0, -width % (2 * BLOCK), 0, -height % (2 * BLOCK))
    padded_B3HW = functional.pad((image_B3HW * 255).round(), pad, mode="replicate")
    forth_33 = torch.tensor(YCC, device=image_B3HW.device)
    ycc_B3HW = torch.einsum("rc,bchw->brhw", forth_33, padded_B3HW).round()
    luma_B1HW = _coded(ycc_B3HW[:, :1] - 128, LUMINANCE, quality)
    rows, cols = padded_B3HW.shape[2:]
    halved_B2HW = separable(ycc_B3HW[:, 1:], _halving(rows), _halving(cols))
    # libjpeg rounds means of four integers by adding 1/4 and 1/2 in turn.
    bias_W = torch.tensor((0.25, 0.5), device=image_B3HW.device).repeat(cols // 4)
    color_B2HW = _coded((halved_B2HW + bias_W).floor(), CHROMINANCE, quality)
    color_B2HW = separable(color_B2HW, _doubling(rows // 2), _doubling(cols // 2))
    seen_B3HW = torch.cat([luma_B1HW + 128, color_B2HW], dim=1)
    back_B3HW = torch.einsum("rc,bchw->brhw", torch.linalg.inv(forth_33), seen_B3HW)
    return rounded(back_B3HW[:, :, :height, :width] / 255)


@register_corruption(
    "saturate",
    "changes the saturation of colors",
    group="validation",
    kind=Kind.FIXED,
    # Factor of the saturation, and what is added to it afterwards.
    small=((0.3, 0), (0.1, 0), (1.5, 0), (2, 0.1), (2.5, 0.2)),
    large=((0.3, 0), (0.1, 0), (2, 0), (5, 0.1), (20, 0.2)),
)
def saturate(image_B3HW: Tensor, factor: float, added: float) -> Tensor:
    """``S ← factor · S + added`` in HSV, clipped to 0..1. Hue and value (V) stay.

    The distance of each channel from V is proportional to S, so it is rescaled. Gray has the hue of red.

    Example:
        >>> color = torch.tensor([0.5, 0.25, 0.25]).view(1, 3, 1, 1)
        >>> saturate(color, factor=2.0, added=0.0).flatten().tolist()
        [0.5, 0.0, 0.0]
    """
    value_B1HW = image_B3HW.amax(dim=1, keepdim=True)
    below_B3HW = value_B1HW - image_B3HW
    chroma_B1HW = below_B3HW.amax(dim=1, keepdim=True)
    saturation_B1HW = torch.where(value_B1HW > 0, chroma_B1HW / value_B1HW, 0.0)
    wanted_B1HW = (factor * saturation_B1HW + added).clamp(0, 1) * value_B1HW
    red_3 = torch.tensor((0.0, 1.0, 1.0), device=image_B3HW.device)[:, None, None]
    shape_B3HW = torch.where(chroma_B1HW > 0, below_B3HW / chroma_B1HW, red_3)
    return value_B1HW - shape_B3HW * wanted_B1HW


def quantization(table: tuple[tuple[int, ...], ...], quality: float) -> Tensor:
    """The quantization step of each coefficient (8, 8) at a quality of 1 to 100, by the rule of libjpeg.

    Example:
        >>> [quantization(LUMINANCE, quality)[0, :3].tolist() for quality in (50, 95)]
        [[16.0, 11.0, 10.0], [2.0, 1.0, 1.0]]
    """
    quality = round(quality)
    scale = 5000 // quality if quality < 50 else 200 - 2 * quality
    steps_88: Tensor = (torch.tensor(table) * scale + 50) // 100
    return steps_88.clamp(1, 255).float()


def _coded(values_BCHW: Tensor, table: tuple[tuple[int, ...], ...], quality: float) -> Tensor:
    height, width = values_BCHW.shape[2:]
    steps_HW = quantization(table, quality).repeat(height // BLOCK, width // BLOCK).to(values_BCHW.device)
    rows, cols = _cosines(height), _cosines(width)
    coefficients = (separable(values_BCHW, rows, cols) / steps_HW).round() * steps_HW
    return separable(coefficients, rows.T, cols.T).round().clamp(-128, 127)


@lru_cache(maxsize=16)
def _cosines(size: int) -> Tensor:
    steps = torch.arange(BLOCK).double()
    block = torch.cos(math.pi / BLOCK * (steps + 0.5) * steps[:, None]) * (2 / BLOCK) ** 0.5
    block[0] /= 2**0.5
    return torch.kron(torch.eye(size // BLOCK), block.float())


@lru_cache(maxsize=16)
def _halving(size: int) -> Tensor:
    return torch.eye(size // 2).repeat_interleave(2, dim=1) / 2


@lru_cache(maxsize=16)
def _doubling(size: int) -> Tensor:
    places = (torch.arange(2 * size).double() / 2 - 0.25).clamp(0, size - 1)
    return interpolation_matrix(size, places)


def _affine(image_B3HW: Tensor, moves_B32: Tensor) -> Tensor:
    """Move three corners (x, y) of an inner square by ``moves_B32`` pixels, and the image with them."""
    height, width = image_B3HW.shape[2:]
    middle_y, middle_x, side = height // 2, width // 2, min(height, width) // 3
    corners = (
        (middle_x + side, middle_y + side),
        (middle_x + side, middle_y - side),
        (middle_x - side, middle_y - side),
    )
    from_32 = torch.tensor(corners, dtype=torch.float64, device=image_B3HW.device)
    onto_B32 = from_32 + moves_B32
    # Sampling needs the inverse map, from positions in the result to positions in the image.
    with_one_B33 = torch.cat([onto_B32, torch.ones_like(onto_B32[..., :1])], dim=2)
    back_B32 = torch.linalg.solve(with_one_B33, from_32.expand_as(onto_B32))
    grid_HW2 = _grid(image_B3HW).double()
    places_BHW2 = torch.einsum("hwi,bij->bhwj", grid_HW2, back_B32[:, :2]) + back_B32[:, None, None, 2]
    return _sampled(image_B3HW, places_BHW2.float(), mirrored_edges=False)


def _grid(image_B3HW: Tensor) -> Tensor:
    """The position (x, y) of every pixel, (H, W, 2)."""
    height, width = image_B3HW.shape[2:]
    device = image_B3HW.device
    rows_HW, cols_HW = torch.meshgrid(
        torch.arange(height, device=device), torch.arange(width, device=device), indexing="ij"
    )
    return torch.stack([cols_HW, rows_HW], dim=-1).float()


def _sampled(image_B3HW: Tensor, places_BHW2: Tensor, *, mirrored_edges: bool) -> Tensor:
    """Bilinear interpolation at positions (x, y).

    Borders are mirrored about the outer edge of the last pixel, or about its center.
    """
    sizes_2 = torch.tensor(image_B3HW.shape[:1:-1], device=image_B3HW.device)
    unit_BHW2 = (2 * places_BHW2 + 1) / sizes_2 - 1 if mirrored_edges else 2 * places_BHW2 / (sizes_2 - 1) - 1
    return functional.grid_sample(
        image_B3HW, unit_BHW2, padding_mode="reflection", align_corners=not mirrored_edges
    )
