"""Digital: contrast, elastic transform, pixelate, JPEG and saturate. Pictures are (B, 3, H, W) in 0..1."""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional

from richkd.evaluate.corruptions.draws import Draws
from richkd.evaluate.corruptions.linear import box_matrix, gaussian_matrix, interpolation_matrix, separable

BLOCK = 8
# Tables K.1 and K.2 of ITU-T T.81, which libjpeg scales by quality.
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
# Rows of Y, Cb and Cr by R, G and B (JFIF).
YCC = ((0.299, 0.587, 0.114), (-0.168735892, -0.331264108, 0.5), (0.5, -0.418687589, -0.081312411))


def contrast(picture_B3HW: Tensor, factor: float) -> Tensor:
    """Move each channel towards its mean over the picture."""
    mean_B311 = picture_B3HW.mean(dim=(2, 3), keepdim=True)
    return torch.lerp(mean_B311, picture_B3HW, factor)


def saturate(picture_B3HW: Tensor, factor: float, added: float) -> Tensor:
    """``S ← factor · S + added`` in HSV, within 0..1; hue and value stay.

    A channel is V − (V − channel), and its distance from V is proportional to S. Gray has the hue of red.
    """
    value_B1HW = picture_B3HW.amax(dim=1, keepdim=True)
    below_B3HW = value_B1HW - picture_B3HW
    chroma_B1HW = below_B3HW.amax(dim=1, keepdim=True)
    saturation_B1HW = torch.where(value_B1HW > 0, chroma_B1HW / value_B1HW, 0.0)
    wanted_B1HW = (factor * saturation_B1HW + added).clamp(0, 1) * value_B1HW
    red_3 = torch.tensor((0.0, 1.0, 1.0), device=picture_B3HW.device)[:, None, None]
    shape_B3HW = torch.where(chroma_B1HW > 0, below_B3HW / chroma_B1HW, red_3)
    return value_B1HW - shape_B3HW * wanted_B1HW


def pixelate(picture_B3HW: Tensor, factor: float) -> Tensor:
    """Reduce to ``factor`` of the size by means of boxes, and enlarge by repeating pixels."""
    size = picture_B3HW.shape[2]
    small = max(int(size * factor), 1)
    reduced_B3HW = (picture_B3HW * 255).round()
    # Columns, then rows, each rounded half up: as Pillow does.
    for _ in range(2):
        halfway_B3HW = reduced_B3HW @ box_matrix(size, small).to(reduced_B3HW).T + 0.5
        reduced_B3HW = halfway_B3HW.floor().mT
    reduced_B3HW = reduced_B3HW / 255
    return separable(reduced_B3HW, box_matrix(small, size))


def elastic_transform(
    picture_B3HW: Tensor, draws: Draws, strength: float, smoothness: float, corners: float
) -> Tensor:
    """Move three corners of an inner square, then every pixel by a smooth random field (Simard et al. 2003).

    All three constants are in widths of the picture.
    """
    height, width = picture_B3HW.shape[2:]
    picture_B3HW = _affine(picture_B3HW, (draws.uniform((3, 2)) * 2 - 1) * corners * width)
    if strength == 0:
        return picture_B3HW
    fields_B2HW = draws.uniform((2, height, width), number=1) * 2 - 1
    smooth = [gaussian_matrix(size, smoothness * width, 3.0) for size in (height, width)]
    shift_B2HW = separable(fields_B2HW, *smooth) * strength * width
    return _sampled(picture_B3HW, _grid(picture_B3HW) + shift_B2HW.movedim(1, -1), mirrored_edges=True)


def jpeg_compression(picture_B3HW: Tensor, quality: float) -> Tensor:
    """What JPEG leaves of a picture: colors at half the resolution, and 8 × 8 cosine coefficients rounded.

    As libjpeg does it by default, but for the rounding inside its integer transforms.
    """
    height, width = picture_B3HW.shape[2:]
    pad = (0, -width % (2 * BLOCK), 0, -height % (2 * BLOCK))
    padded_B3HW = functional.pad((picture_B3HW * 255).round(), pad, mode="replicate")
    forth_33 = torch.tensor(YCC, device=picture_B3HW.device)
    ycc_B3HW = torch.einsum("rc,bchw->brhw", forth_33, padded_B3HW).round()
    luma_B1HW = _coded(ycc_B3HW[:, :1] - 128, LUMINANCE, quality)
    rows, cols = padded_B3HW.shape[2:]
    halved_B2HW = separable(ycc_B3HW[:, 1:], _halving(rows), _halving(cols))
    # Means of four whole numbers are rounded by adding a quarter and a half in turn.
    bias_W = torch.tensor((0.25, 0.5), device=picture_B3HW.device).repeat(cols // 4)
    color_B2HW = _coded((halved_B2HW + bias_W).floor(), CHROMINANCE, quality)
    color_B2HW = separable(color_B2HW, _doubling(rows // 2), _doubling(cols // 2))
    seen_B3HW = torch.cat([luma_B1HW + 128, color_B2HW], dim=1)
    back_B3HW = torch.einsum("rc,bchw->brhw", torch.linalg.inv(forth_33), seen_B3HW)
    return back_B3HW[:, :, :height, :width] / 255


def quantization(table: tuple[tuple[int, ...], ...], quality: float) -> Tensor:
    """The step of each coefficient (8, 8) at a quality of 1 to 100, by libjpeg's rule."""
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


def _affine(picture_B3HW: Tensor, moves_B32: Tensor) -> Tensor:
    """Carry three corners (x, y) of an inner square by ``moves``, and the picture with them."""
    height, width = picture_B3HW.shape[2:]
    middle_y, middle_x, side = height // 2, width // 2, min(height, width) // 3
    corners = (
        (middle_x + side, middle_y + side),
        (middle_x + side, middle_y - side),
        (middle_x - side, middle_y - side),
    )
    from_32 = torch.tensor(corners, dtype=torch.float64, device=picture_B3HW.device)
    onto_B32 = from_32 + moves_B32
    # From each place of the result back to where its pixel was.
    with_one_B33 = torch.cat([onto_B32, torch.ones_like(onto_B32[..., :1])], dim=2)
    back_B32 = torch.linalg.solve(with_one_B33, from_32.expand_as(onto_B32))
    grid_HW2 = _grid(picture_B3HW).double()
    places_BHW2 = torch.einsum("hwi,bij->bhwj", grid_HW2, back_B32[:, :2]) + back_B32[:, None, None, 2]
    return _sampled(picture_B3HW, places_BHW2.float(), mirrored_edges=False)


def _grid(picture_B3HW: Tensor) -> Tensor:
    """Columns and rows (H, W, 2) of every pixel, as (x, y)."""
    height, width = picture_B3HW.shape[2:]
    device = picture_B3HW.device
    rows_HW, cols_HW = torch.meshgrid(
        torch.arange(height, device=device), torch.arange(width, device=device), indexing="ij"
    )
    return torch.stack([cols_HW, rows_HW], dim=-1).float()


def _sampled(picture_B3HW: Tensor, places_BHW2: Tensor, *, mirrored_edges: bool) -> Tensor:
    """Bilinear values at places (x, y); mirrored about the last pixels' outer edges, or their middles."""
    sizes_2 = torch.tensor(picture_B3HW.shape[:1:-1], device=picture_B3HW.device)
    unit_BHW2 = (2 * places_BHW2 + 1) / sizes_2 - 1 if mirrored_edges else 2 * places_BHW2 / (sizes_2 - 1) - 1
    return functional.grid_sample(
        picture_B3HW, unit_BHW2, padding_mode="reflection", align_corners=not mirrored_edges
    )
