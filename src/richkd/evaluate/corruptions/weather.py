"""Weather: snow, frost, fog, brightness and spatter. Images are (B, 3, H, W) in 0..1."""

from __future__ import annotations

import torch
from torch import Tensor

from richkd.data.views import LUMA
from richkd.evaluate.corruptions.blur import gaussian_blur, moved
from richkd.evaluate.corruptions.definition import Kind, each, register_corruption
from richkd.evaluate.corruptions.draws import Draws
from richkd.evaluate.corruptions.fractal import fractal
from richkd.evaluate.corruptions.ice import texture
from richkd.evaluate.corruptions.linear import separable, zoom_matrix
from richkd.evaluate.corruptions.rounding import rounded, truncated
from richkd.evaluate.corruptions.water import water

MUD, WATER = (63, 42, 20), (175, 238, 238)
# Where mud covers less than this share, it is transparent.
MUD_COVER = 0.8


@register_corruption(
    "snow",
    "adds falling snow and whitens the image",
    group="weather",
    kind=Kind.DRAWN,
    # Mean and standard deviation of the noise that makes the flakes, zoom, threshold, radius and standard
    # deviation of the motion blur, and weight of the image against its whitened version.
    small=(
        (0.1, 0.2, 1, 0.6, 8, 3, 0.95),
        (0.1, 0.2, 1, 0.5, 10, 4, 0.9),
        (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
        (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
        (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
    ),
    large=(
        (0.1, 0.3, 3, 0.5, 10, 4, 0.8),
        (0.2, 0.3, 2, 0.5, 12, 4, 0.7),
        (0.55, 0.3, 4, 0.9, 12, 8, 0.7),
        (0.55, 0.3, 4.5, 0.85, 12, 8, 0.65),
        (0.55, 0.3, 2.5, 0.85, 12, 12, 0.55),
    ),
)
def snow(
    image_B3HW: Tensor,
    draws: Draws,
    mean: float,
    deviation: float,
    zoom: float,
    threshold: float,
    radius: float,
    sigma: float,
    share: float,
) -> Tensor:
    """Falling snow over a whitened image.

    The flakes are enlarged noise above a threshold, blurred along the direction in which they fall. They are
    added a second time, rotated by 180°.

    Example:
        >>> image = torch.full((1, 3, 16, 16), 0.2)
        >>> snowy = snow(image, Draws((1,), torch.device("cpu")), 0.1, 0.2, 1, 0.5, 10, 4, 0.9)
        >>> bool((snowy >= image - 1e-6).all())
        True
    """
    height, width = image_B3HW.shape[2:]
    flakes_B1HW = mean + deviation * draws.normal((1, height, width))
    flakes_B1HW = separable(flakes_B1HW, zoom_matrix(height, zoom), zoom_matrix(width, zoom))
    flakes_B1HW = truncated(torch.where(flakes_B1HW < threshold, 0.0, flakes_B1HW))
    falling_B1HW = rounded(moved(flakes_B1HW, draws.uniform((), number=1) * 90 - 135, radius, sigma))
    white_B1HW = gray(image_B3HW) * 1.5 + 0.5
    whitened_B3HW = torch.lerp(torch.maximum(image_B3HW, white_B1HW), image_B3HW, share)
    return whitened_B3HW + falling_B1HW + falling_B1HW.flip(2, 3)


@register_corruption(
    "frost",
    "adds a texture of ice",
    group="weather",
    kind=Kind.DRAWN,
    # Weight of the image, and weight of the ice.
    small=((1, 0.2), (1, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45)),
    large=((1, 0.4), (0.8, 0.6), (0.7, 0.7), (0.65, 0.7), (0.6, 0.75)),
)
def frost(image_B3HW: Tensor, draws: Draws, image_weight: float, ice_weight: float) -> Tensor:
    """``image_weight · x + ice_weight · texture``.

    The original adds photographs of frost. Here the texture is generated, with the gray levels of these
    photographs; see `richkd.evaluate.corruptions.ice`.

    Example:
        >>> black = torch.zeros(1, 3, 16, 16)
        >>> ice = frost(black, Draws((1,), torch.device("cpu")), image_weight=1.0, ice_weight=0.4)
        >>> float(ice.min()) >= 0, 0.2 < float(ice.max()) <= 0.4
        (True, True)
    """
    return image_weight * image_B3HW + ice_weight * texture(draws, *image_B3HW.shape[2:])


@register_corruption(
    "fog",
    "adds fog",
    group="weather",
    kind=Kind.DRAWN,
    # Thickness, and decay of the fractal: finer levels are weaker by decay².
    small=((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75)),
    large=((1.5, 2), (2, 2), (2.5, 1.7), (2.5, 1.5), (3, 1.4)),
)
def fog(image_B3HW: Tensor, draws: Draws, thickness: float, decay: float) -> Tensor:
    """``(x + thickness · fractal) · max / (max + thickness)``, where max is the largest value of the image.

    Example:
        >>> image = torch.linspace(0, 1, 16).expand(1, 3, 16, 16)
        >>> foggy = fog(image, Draws((1,), torch.device("cpu")), thickness=1.0, decay=2.0)
        >>> float(foggy.max()) <= 1, float(foggy.std()) < float(image.std())
        (True, True)
    """
    height, width = image_B3HW.shape[2:]
    cloud_B1HW = fractal(draws, max(height, width), decay)[:, :, :height, :width]
    brightest_B111 = image_B3HW.amax(dim=(1, 2, 3), keepdim=True)
    return (image_B3HW + thickness * cloud_B1HW) * brightest_B111 / (brightest_B111 + thickness)


@register_corruption(
    "brightness",
    "makes the image brighter",
    group="weather",
    kind=Kind.FIXED,
    # Added to the value (V) of HSV.
    small=each(0.05, 0.1, 0.15, 0.2, 0.3),
    large=each(0.1, 0.2, 0.3, 0.4, 0.5),
)
def brightness(image_B3HW: Tensor, added: float) -> Tensor:
    """``V ← V + added`` in HSV, clipped to 0..1. Hue and saturation stay: all channels have one factor.

    Example:
        >>> orange = torch.tensor([0.5, 0.25, 0.0]).view(1, 3, 1, 1)
        >>> brightness(orange, added=0.5).flatten().tolist()
        [1.0, 0.5, 0.0]
    """
    value_B1HW = image_B3HW.amax(dim=1, keepdim=True)
    brighter_B1HW = (value_B1HW + added).clamp(0, 1)
    # Black has no hue and becomes gray.
    return torch.where(value_B1HW > 0, image_B3HW * brighter_B1HW / value_B1HW, brighter_B1HW)


@register_corruption(
    "spatter",
    "adds drops of water or mud",
    group="validation",
    kind=Kind.DRAWN,
    # Mean and standard deviation of the noise that makes the liquid, standard deviation of its blur in
    # pixels, threshold, strength, and 1 for mud or 0 for water.
    small=(
        (0.62, 0.1, 0.7, 0.7, 0.5, 0),
        (0.65, 0.1, 0.8, 0.7, 0.5, 0),
        (0.65, 0.3, 1, 0.69, 0.5, 0),
        (0.65, 0.1, 0.7, 0.69, 0.6, 1),
        (0.65, 0.1, 0.5, 0.68, 0.6, 1),
    ),
    large=(
        (0.65, 0.3, 4, 0.69, 0.6, 0),
        (0.65, 0.3, 3, 0.68, 0.6, 0),
        (0.65, 0.3, 2, 0.68, 0.5, 0),
        (0.65, 0.3, 1, 0.65, 1.5, 1),
        (0.67, 0.4, 1, 0.65, 1.5, 1),
    ),
)
def spatter(
    image_B3HW: Tensor,
    draws: Draws,
    mean: float,
    deviation: float,
    sigma: float,
    threshold: float,
    strength: float,
    mud: float,
) -> Tensor:
    """Drops of water or mud where blurred noise exceeds a threshold.

    Mud hides the image in proportion to its cover, which is blurred by ``strength`` and set to 0 below 0.8.
    Water is pale: ``x + strength · drops · color``, where the drops are shaded by `water`.

    Example:
        >>> image = torch.full((1, 3, 16, 16), 0.5)
        >>> wet = spatter(image, Draws((1,), torch.device("cpu")), 0.65, 0.3, 1, 0.69, 0.5, mud=0)
        >>> float(wet.min()) == 0.5, 0.8 < float(wet.max()) <= 1
        (True, True)
    """
    height, width = image_B3HW.shape[2:]
    liquid_B1HW = gaussian_blur(mean + deviation * draws.normal((1, height, width)), sigma)
    if mud > 0.5:
        cover_B1HW = gaussian_blur((liquid_B1HW > threshold).float(), strength)
        cover_B1HW = torch.where(cover_B1HW < MUD_COVER, 0.0, cover_B1HW)
        return torch.lerp(image_B3HW, _color(MUD, image_B3HW), cover_B1HW)
    drops_B1HW = water(torch.where(liquid_B1HW < threshold, 0.0, liquid_B1HW))
    return image_B3HW + strength * drops_B1HW * _color(WATER, image_B3HW)


def gray(image_B3HW: Tensor) -> Tensor:
    """Luma (B, 1, H, W) by ITU-R BT.601.

    Example:
        >>> round(float(gray(torch.tensor([0.0, 1.0, 0.0]).view(1, 3, 1, 1))), 3)
        0.587
    """
    luma_3 = torch.tensor(LUMA, device=image_B3HW.device)
    return (image_B3HW * luma_3[:, None, None]).sum(dim=1, keepdim=True)


def _color(rgb: tuple[int, int, int], like: Tensor) -> Tensor:
    return (torch.tensor(rgb, device=like.device) / 255)[:, None, None].expand_as(like)
