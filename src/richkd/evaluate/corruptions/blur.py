"""Blurs: Gaussian, defocus, glass, motion and zoom. Images are (B, channels, H, W) in 0..1."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from richkd.evaluate.corruptions.definition import Kind, each, register_corruption
from richkd.evaluate.corruptions.draws import Draws
from richkd.evaluate.corruptions.linear import gaussian_matrix, separable, zoom_matrix
from richkd.evaluate.corruptions.rounding import rounded, truncated

# Pixels further along a motion than this many standard deviations weigh less than one step of a byte.
MOTION_DEVIATIONS = 4.0


@register_corruption(
    "defocus_blur",
    "blurs like a lens that is out of focus",
    group="blur",
    kind=Kind.FIXED,
    # Radius of the disk, and standard deviation of the Gaussian that smooths its rim, in pixels.
    small=((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1)),
    large=((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5)),
)
def defocus_blur(image_BCHW: Tensor, radius: float, rim: float) -> Tensor:
    """Convolution with a disk whose rim is smoothed; borders are mirrored about the center of the last pixel.

    Example:
        >>> point = torch.zeros(1, 1, 7, 7).index_put_(tuple(torch.tensor([0, 0, 3, 3])), torch.tensor(1.0))
        >>> [round(weight, 2) for weight in defocus_blur(point, radius=1.0, rim=0.1)[0, 0, 3].tolist()]
        [0.0, 0.0, 0.2, 0.2, 0.2, 0.0, 0.0]
    """
    batch, channels, height, width = image_BCHW.shape
    kernel_KK = disk(radius, rim).to(image_BCHW)
    # Mirroring can add at most size − 1 pixels, so the disk is cut to that for small images.
    reach = min(len(kernel_KK) // 2, height - 1, width - 1)
    cut = len(kernel_KK) // 2 - reach
    kernel_KK = kernel_KK[cut : len(kernel_KK) - cut, cut : len(kernel_KK) - cut]
    single_N1HW = image_BCHW.reshape(batch * channels, 1, height, width)
    padded_N1HW = functional.pad(single_N1HW, (reach,) * 4, mode="reflect")
    return functional.conv2d(padded_N1HW, kernel_KK[None, None]).view_as(image_BCHW)


@lru_cache(maxsize=16)
def disk(radius: float, rim: float) -> Tensor:
    """Weights (K, K) of a filled circle, smoothed by a Gaussian with standard deviation ``rim``.

    The Gaussian has 3 × 3 pixels up to radius 8, and 5 × 5 beyond. The weights add up to 1.

    Example:
        >>> weights = disk(radius=2.0, rim=0.5)
        >>> len(weights), round(float(weights.sum()), 4)
        (7, 1.0)
    """
    reach = math.ceil(radius) + 2
    steps_K = torch.arange(-reach, reach + 1).double()
    inside_KK = (steps_K[:, None] ** 2 + steps_K**2 <= radius**2).double()
    taps = 1 if radius <= 8 else 2
    offsets = torch.arange(-taps, taps + 1).double()
    smooth = torch.exp(-0.5 * (offsets / rim) ** 2)
    smooth = smooth / smooth.sum()
    kernel_KK = functional.conv2d(
        (inside_KK / inside_KK.sum())[None, None], torch.outer(smooth, smooth)[None, None], padding=taps
    )[0, 0]
    used = int((kernel_KK.sum(dim=0) > 0).nonzero()[0])
    return kernel_KK[used : 2 * reach + 1 - used, used : 2 * reach + 1 - used].float()


@register_corruption(
    "glass_blur",
    "moves pixels at random over short distances, between two blurs",
    group="blur",
    kind=Kind.DRAWN,
    # Standard deviation of the blurs in pixels, largest shift in pixels, number of rounds.
    small=((0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2)),
    large=((0.7, 1, 2), (0.9, 2, 1), (1, 2, 3), (1.1, 3, 2), (1.5, 4, 2)),
)
def glass_blur(image_BCHW: Tensor, draws: Draws, sigma: float, shift: float, rounds: float) -> Tensor:
    """Blur, replace each pixel by one nearby, and blur again.

    The first blur is truncated to bytes. In each of ``rounds`` rounds, from the last pixel to the first, each
    pixel takes the current value of another pixel, except for ``shift`` + 1 rows and columns at the start and
    ``shift`` − 1 at the end. Its offset is drawn from [−shift, shift) for rows and for columns. The published
    code is meant to swap the two pixels, but it swaps views of one array, which copies one onto the other.
    The published images were made in this way, so it is reproduced here.

    Example:
        >>> image = torch.linspace(0, 1, 8).expand(1, 3, 8, 8)
        >>> moved = glass_blur(image, Draws((1,), torch.device("cpu")), sigma=0.05, shift=1.0, rounds=1.0)
        >>> bool(torch.equal(moved[..., 0], image[..., 0])), bool(torch.equal(moved, image))
        (True, False)
    """
    height, width = image_BCHW.shape[2:]
    reach, rounds = round(shift), round(rounds)
    blurred_BCHW = truncated(gaussian_blur(image_BCHW, sigma))
    rows, cols = (range(length - reach, reach, -1) for length in (height, width))
    moves_BK2 = (draws.uniform((rounds * len(rows) * len(cols), 2)) * 2 * reach).long() - reach
    leaps_KB = (moves_BK2[..., 0] * width + moves_BK2[..., 1]).T.cpu().numpy()
    places_K = np.array([row * width + col for _ in range(rounds) for row in rows for col in cols], dtype=int)
    source_PB = _copied(height * width, places_K, places_K[:, None] + leaps_KB)
    source_B1P = torch.from_numpy(source_PB).T[:, None].to(image_BCHW.device)
    moved_BCP = blurred_BCHW.flatten(2).gather(2, source_B1P.expand(-1, image_BCHW.shape[1], -1))
    return gaussian_blur(moved_BCP.view_as(image_BCHW), sigma)


def _copied(pixels: int, places_K: NDArray[np.int64], sources_KB: NDArray[np.int64]) -> NDArray[np.int64]:
    """The pixel (P, B) that each pixel shows in the end, if one after another takes the value of another."""
    images = sources_KB.shape[1]
    shown_PB = np.arange(pixels)[:, None].repeat(images, axis=1)
    flat_Q, entries_KB = shown_PB.reshape(-1), sources_KB * images + np.arange(images)
    # The order of pixels matters, so the loop is over pixels, not over images. A step of NumPy is faster than
    # one of PyTorch.
    for place, entries_B in zip(places_K.tolist(), entries_KB, strict=True):
        shown_PB[place] = flat_Q[entries_B]
    return shown_PB


@register_corruption(
    "motion_blur",
    "blurs like a camera that moves during the exposure",
    group="blur",
    kind=Kind.DRAWN,
    # Length of the motion is 2 · radius + 1 pixels; standard deviation of the weights along it.
    small=((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5)),
    large=((10, 3), (15, 5), (15, 8), (15, 12), (20, 15)),
)
def motion_blur(image_BCHW: Tensor, draws: Draws, radius: float, sigma: float) -> Tensor:
    """Motion in a direction that is drawn for each image, within 45° of the horizontal; see `moved`.

    The result is rounded to bytes, as ImageMagick does it.

    Example:
        >>> stripes = (torch.arange(16) % 2).float().expand(1, 3, 16, 16)
        >>> blurred = motion_blur(stripes, Draws((1,), torch.device("cpu")), radius=6, sigma=2)
        >>> float(blurred.std()) < 0.7 * float(stripes.std())
        True
    """
    return rounded(moved(image_BCHW, draws.uniform(()) * 90 - 45, radius, sigma))


def moved(image_BCHW: Tensor, degrees_B: Tensor, radius: float, sigma: float) -> Tensor:
    """Weighted mean of the pixels along one direction for each image; border pixels are repeated.

    The weights are the right half of a Gaussian. Directions are rounded to whole degrees, so that images with
    the same direction are computed together.

    Args:
        degrees_B: direction in degrees; 0 averages with pixels to the right, 90 with pixels below.
        radius: the mean is over at most 2 · radius + 1 pixels.
        sigma: standard deviation of the Gaussian in pixels.

    Example:
        >>> point = torch.zeros(1, 1, 5, 5).index_put_(tuple(torch.tensor([0, 0, 2, 2])), torch.tensor(1.0))
        >>> [round(weight, 2) for weight in moved(point, torch.tensor([0.0]), 1, 1.0)[0, 0, 2].tolist()]
        [0.08, 0.35, 0.57, 0.0, 0.0]
    """
    height, width = image_BCHW.shape[2:]
    taps = min(2 * round(radius) + 1, math.ceil(MOTION_DEVIATIONS * sigma) + 1, height, width)
    weights_K = torch.exp(-0.5 * (torch.arange(taps) / sigma).double() ** 2)
    weights = (weights_K / weights_K.sum()).tolist()
    padded_BCHW = functional.pad(image_BCHW, (taps,) * 4, mode="replicate")
    out_BCHW = torch.empty_like(image_BCHW)
    whole_B = degrees_B.round().long()
    for degrees in sorted(set(whole_B.tolist())):
        same_B = (whole_B == degrees).nonzero()[:, 0]
        these, angle = padded_BCHW[same_B], math.radians(degrees)
        mean = torch.zeros_like(image_BCHW[: len(same_B)])
        for step, weight in enumerate(weights):
            down, right = (math.ceil(step * along - 0.5) for along in (math.sin(angle), math.cos(angle)))
            mean.add_(these[:, :, taps + down :, taps + right :][:, :, :height, :width], alpha=weight)
        out_BCHW[same_B] = mean
    return out_BCHW


@register_corruption(
    "zoom_blur",
    "blurs like a lens that zooms in during the exposure",
    group="blur",
    kind=Kind.FIXED,
    # Largest zoom factor, and the step between factors. The published bounds are 1.06, 1.11, … for 32 pixels
    # and 1.11, 1.16, … for 224. They are exclusive, but rounding in `numpy.arange` includes 1.06 and 1.11.
    small=((1.06, 0.01), (1.11, 0.01), (1.15, 0.01), (1.20, 0.01), (1.25, 0.01)),
    large=((1.11, 0.01), (1.15, 0.01), (1.20, 0.02), (1.24, 0.02), (1.30, 0.03)),
)
def zoom_blur(image_BCHW: Tensor, largest: float, step: float) -> Tensor:
    """The mean of the image and its enlargements by the factors 1, 1 + step, … up to ``largest``.

    Example:
        >>> ramp = torch.linspace(0, 1, 9).expand(1, 1, 9, 9)
        >>> blurred = zoom_blur(ramp, largest=1.5, step=0.25)[0, 0, 4]
        >>> bool(blurred[0] > ramp[0, 0, 4, 0]), bool(blurred[-1] < ramp[0, 0, 4, -1])
        (True, True)
    """
    size = image_BCHW.shape[2]
    factors = np.arange(1, largest + step / 2, step).tolist()
    total_BCHW = image_BCHW.clone()
    for factor in factors:
        total_BCHW += separable(image_BCHW, zoom_matrix(size, factor))
    return total_BCHW / (len(factors) + 1)


@register_corruption(
    "gaussian_blur",
    "blurs with a Gaussian",
    group="validation",
    kind=Kind.FIXED,
    # Standard deviation in pixels.
    small=each(0.4, 0.6, 0.7, 0.8, 1),
    large=each(1, 2, 3, 4, 6),
)
def gaussian_blur(image_BCHW: Tensor, sigma: float) -> Tensor:
    """Convolution with a Gaussian of standard deviation ``sigma`` pixels.

    Example:
        >>> point = torch.zeros(1, 1, 5, 5).index_put_(tuple(torch.tensor([0, 0, 2, 2])), torch.tensor(1.0))
        >>> [round(weight, 2) for weight in gaussian_blur(point, sigma=0.5)[0, 0, 2].tolist()]
        [0.0, 0.08, 0.62, 0.08, 0.0]
    """
    return separable(image_BCHW, gaussian_matrix(image_BCHW.shape[2], sigma))
