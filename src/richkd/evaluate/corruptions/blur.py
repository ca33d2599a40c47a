"""Blurs: gaussian, defocus, glass, motion and zoom. Pictures are (B, channels, H, W) in 0..1."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from richkd.evaluate.corruptions.draws import Draws
from richkd.evaluate.corruptions.linear import gaussian_matrix, separable, zoom_matrix

# Taps of a motion beyond so many deviations weigh less than a step of a byte.
MOTION_DEVIATIONS = 4.0


def gaussian_blur(picture_BCHW: Tensor, sigma: float) -> Tensor:
    """Convolution with a Gaussian of deviation ``sigma`` pixels."""
    return separable(picture_BCHW, gaussian_matrix(picture_BCHW.shape[2], sigma))


def defocus_blur(picture_BCHW: Tensor, radius: float, rim: float) -> Tensor:
    """Convolution with a disk whose rim is smoothed; borders are mirrored about their last pixel."""
    batch, channels, height, width = picture_BCHW.shape
    kernel_KK = disk(radius, rim).to(picture_BCHW)
    # A picture smaller than the disk has no more pixels to mirror.
    reach = min(len(kernel_KK) // 2, height - 1, width - 1)
    cut = len(kernel_KK) // 2 - reach
    kernel_KK = kernel_KK[cut : len(kernel_KK) - cut, cut : len(kernel_KK) - cut]
    single_N1HW = picture_BCHW.reshape(batch * channels, 1, height, width)
    padded_N1HW = functional.pad(single_N1HW, (reach,) * 4, mode="reflect")
    return functional.conv2d(padded_N1HW, kernel_KK[None, None]).view_as(picture_BCHW)


@lru_cache(maxsize=16)
def disk(radius: float, rim: float) -> Tensor:
    """Weights of a filled circle, smoothed by a Gaussian of deviation ``rim``.

    The Gaussian is cut off at 3 pixels, or at 5 beyond radius 8.
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


def glass_blur(picture_BCHW: Tensor, draws: Draws, sigma: float, shift: float, rounds: float) -> Tensor:
    """Blur, let each pixel take the color of a near one, blur again.

    From the last pixel to the first, and ``rounds`` times, each pixel of the interior becomes what one
    at most ``shift`` away is by then, drawn from [−shift, shift) in both directions. The published code means
    to exchange the two, but exchanges views of one array, which copies; its images are made like this.
    """
    height, width = picture_BCHW.shape[2:]
    reach, rounds = round(shift), round(rounds)
    blurred_BCHW = gaussian_blur(picture_BCHW, sigma)
    rows, cols = (range(length - reach - 1, reach - 1, -1) for length in (height, width))
    moves_BK2 = (draws.uniform((rounds * len(rows) * len(cols), 2)) * 2 * reach).long() - reach
    leaps_KB = (moves_BK2[..., 0] * width + moves_BK2[..., 1]).T.contiguous()
    # Where each place's pixel comes from: one place at a time, but in all pictures at once.
    source_PB = torch.arange(height * width, device=picture_BCHW.device)[:, None].repeat(1, leaps_KB.shape[1])
    places = [row * width + col for _ in range(rounds) for row in rows for col in cols]
    for place, leap_B in zip(places, leaps_KB, strict=True):
        source_PB[place] = source_PB.gather(0, (place + leap_B)[None])[0]
    moved_BCP = blurred_BCHW.flatten(2).gather(2, source_PB.T[:, None].expand(-1, picture_BCHW.shape[1], -1))
    return gaussian_blur(moved_BCP.view_as(picture_BCHW), sigma)


def motion_blur(picture_BCHW: Tensor, draws: Draws, radius: float, sigma: float) -> Tensor:
    """A camera that moved within 45° of the horizontal."""
    return moved(picture_BCHW, draws.uniform(()) * 90 - 45, radius, sigma)


def moved(picture_BCHW: Tensor, degrees_B: Tensor, radius: float, sigma: float) -> Tensor:
    """Mean over pixels along a direction, by the right half of a Gaussian; border pixels are repeated.

    Directions are rounded to whole degrees, so that pictures of one direction are shifted together.
    """
    height, width = picture_BCHW.shape[2:]
    taps = min(2 * round(radius) + 1, math.ceil(MOTION_DEVIATIONS * sigma) + 1, height, width)
    weights_K = torch.exp(-0.5 * (torch.arange(taps) / sigma).double() ** 2)
    weights = (weights_K / weights_K.sum()).tolist()
    padded_BCHW = functional.pad(picture_BCHW, (taps,) * 4, mode="replicate")
    out_BCHW = torch.empty_like(picture_BCHW)
    whole_B = degrees_B.round().long()
    for degrees in sorted(set(whole_B.tolist())):
        alike_B = (whole_B == degrees).nonzero()[:, 0]
        these, angle = padded_BCHW[alike_B], math.radians(degrees)
        mean = torch.zeros_like(picture_BCHW[: len(alike_B)])
        for step, weight in enumerate(weights):
            down, right = (math.ceil(step * along - 0.5) for along in (math.sin(angle), math.cos(angle)))
            mean.add_(these[:, :, taps + down :, taps + right :][:, :, :height, :width], alpha=weight)
        out_BCHW[alike_B] = mean
    return out_BCHW


def zoom_blur(picture_BCHW: Tensor, largest: float, step: float) -> Tensor:
    """The mean of the picture and its enlargements by 1, 1 + step, … up to ``largest``."""
    size = picture_BCHW.shape[2]
    factors = np.arange(1, largest + step / 2, step).tolist()
    total_BCHW = picture_BCHW.clone()
    for factor in factors:
        total_BCHW += separable(picture_BCHW, zoom_matrix(size, factor))
    return total_BCHW / (len(factors) + 1)
