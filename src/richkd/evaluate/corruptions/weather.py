"""Weather: snow, frost, fog, brightness and spatter. Pictures are (B, 3, H, W) in 0..1."""

from __future__ import annotations

import torch
from torch import Tensor

from richkd.data.views import LUMA
from richkd.evaluate.corruptions.blur import gaussian_blur, moved
from richkd.evaluate.corruptions.draws import Draws
from richkd.evaluate.corruptions.linear import separable, zoom_matrix

MUD, WATER, ICE = (63, 42, 20), (175, 238, 238), (214, 232, 255)
# How fast finer detail of ice fades, and how sharp its ridges are.
ICE_DECAY, ICE_SHARPNESS = 1.8, 3
# Below this share of cover, mud is thin enough to see through.
MUD_COVER = 0.8


def snow(
    picture_B3HW: Tensor,
    draws: Draws,
    mean: float,
    deviation: float,
    zoom: float,
    threshold: float,
    radius: float,
    sigma: float,
    share: float,
) -> Tensor:
    """Flakes that fall, over a whitened picture: enlarged noise above a threshold, blurred along its fall.

    The same flakes turned by 180° fall a second time.
    """
    height, width = picture_B3HW.shape[2:]
    flakes_B1HW = mean + deviation * draws.normal((1, height, width))
    flakes_B1HW = separable(flakes_B1HW, zoom_matrix(height, zoom), zoom_matrix(width, zoom))
    flakes_B1HW = torch.where(flakes_B1HW < threshold, 0.0, flakes_B1HW).clamp(0, 1)
    falling_B1HW = moved(flakes_B1HW, draws.uniform((), number=1) * 90 - 135, radius, sigma)
    white_B1HW = gray(picture_B3HW) * 1.5 + 0.5
    whitened_B3HW = torch.lerp(torch.maximum(picture_B3HW, white_B1HW), picture_B3HW, share)
    return whitened_B3HW + falling_B1HW + falling_B1HW.flip(2, 3)


def frost(picture_B3HW: Tensor, draws: Draws, picture: float, ice: float) -> Tensor:
    """Ice on the pane, ``picture · x + ice · texture``.

    The original lays photographs of frost over the picture. This texture is grown instead: where a fractal
    passes through its middle height there is a ridge, and of two such maps the brighter one is seen.
    """
    size = max(picture_B3HW.shape[2:])
    maps = [fractal(draws, size, ICE_DECAY, number) for number in range(2)]
    ridges = torch.maximum(*((1 - (2 * height_B1SS - 1).abs()) ** ICE_SHARPNESS for height_B1SS in maps))
    height, width = picture_B3HW.shape[2:]
    tint_3 = torch.tensor(ICE, device=picture_B3HW.device) / 255
    return picture * picture_B3HW + ice * ridges[:, :, :height, :width] * tint_3[:, None, None]


def fog(picture_B3HW: Tensor, draws: Draws, thickness: float, decay: float) -> Tensor:
    """``(x + thickness · fractal) · max / (max + thickness)``, with the picture's brightest value as max."""
    height, width = picture_B3HW.shape[2:]
    cloud_B1HW = fractal(draws, max(height, width), decay)[:, :, :height, :width]
    brightest_B111 = picture_B3HW.amax(dim=(1, 2, 3), keepdim=True)
    return (picture_B3HW + thickness * cloud_B1HW) * brightest_B111 / (brightest_B111 + thickness)


def brightness(picture_B3HW: Tensor, added: float) -> Tensor:
    """Add to the value of HSV, and keep hue and saturation: all channels are multiplied alike."""
    value_B1HW = picture_B3HW.amax(dim=1, keepdim=True)
    brighter_B1HW = (value_B1HW + added).clamp(0, 1)
    # Black has no hue: it becomes gray.
    return torch.where(value_B1HW > 0, picture_B3HW * brighter_B1HW / value_B1HW, brighter_B1HW)


def spatter(
    picture_B3HW: Tensor,
    draws: Draws,
    mean: float,
    deviation: float,
    sigma: float,
    threshold: float,
    strength: float,
    mud: float,
) -> Tensor:
    """Drops of water or mud where blurred noise exceeds a threshold.

    Mud is as in the original: the cover, blurred by ``strength`` and cut off below 0.8, hides the picture.
    Water is simpler here: pale drops whose brightness rises with their thickness to ``strength``, where the
    original also draws their rims by edge detection and histogram equalization.
    """
    height, width = picture_B3HW.shape[2:]
    liquid_B1HW = gaussian_blur(mean + deviation * draws.normal((1, height, width)), sigma)
    if mud > 0.5:
        cover_B1HW = gaussian_blur((liquid_B1HW > threshold).float(), strength)
        cover_B1HW = torch.where(cover_B1HW < MUD_COVER, 0.0, cover_B1HW)
        return torch.lerp(picture_B3HW, _color(MUD, picture_B3HW), cover_B1HW)
    drops_B1HW = (liquid_B1HW - threshold).clamp(min=0)
    thickest_B111 = drops_B1HW.amax(dim=(2, 3), keepdim=True).clamp(min=1e-6)
    return picture_B3HW + strength * drops_B1HW / thickest_B111 * _color(WATER, picture_B3HW)


def fractal(draws: Draws, size: int, decay: float, number: int = 0) -> Tensor:
    """A cloudy map (B, 1, S, S) in [0, 1] by the diamond-square algorithm; S is the next power of two.

    Middles of squares and then of edges become the mean of their four neighbors, around the edge of the map,
    plus uniform noise whose range falls by decay² from each level to the next finer one. Source: Fournier,
    Fussell and Carpenter, "Computer rendering of stochastic models", 1982.
    """
    side = 1 << max(size - 1, 1).bit_length()
    noise_BSS = draws.uniform((side, side), number) * 2 - 1
    map_BSS = torch.zeros_like(noise_BSS)
    step, reach = side, 1.0
    while step >= 2:
        half = step // 2
        corners = map_BSS[:, ::step, ::step]
        pairs = corners + corners.roll(-1, dims=1)
        middles = (pairs + pairs.roll(-1, dims=2)) / 4 + reach * noise_BSS[:, half::step, half::step]
        map_BSS[:, half::step, half::step] = middles
        across = middles + middles.roll(1, dims=1) + corners + corners.roll(-1, dims=2)
        map_BSS[:, ::step, half::step] = across / 4 + reach * noise_BSS[:, ::step, half::step]
        down = middles + middles.roll(1, dims=2) + corners + corners.roll(-1, dims=1)
        map_BSS[:, half::step, ::step] = down / 4 + reach * noise_BSS[:, half::step, ::step]
        step, reach = half, reach / decay**2
    map_BSS = map_BSS - map_BSS.amin(dim=(1, 2), keepdim=True)
    return (map_BSS / map_BSS.amax(dim=(1, 2), keepdim=True).clamp(min=1e-12))[:, None]


def gray(picture_B3HW: Tensor) -> Tensor:
    """Luma (B, 1, H, W) by BT.601."""
    luma_3 = torch.tensor(LUMA, device=picture_B3HW.device)
    return (picture_B3HW * luma_3[:, None, None]).sum(dim=1, keepdim=True)


def _color(rgb: tuple[int, int, int], like: Tensor) -> Tensor:
    return (torch.tensor(rgb, device=like.device) / 255)[:, None, None].expand_as(like)
