"""Corrupt batches of images: 15 corruptions for testing, 4 for validation, at severities 1 to 5.

After Hendrycks and Dietterich (ICLR 2019). Images corrupted here are not CIFAR-100-C or ImageNet-C: they
share operations and constants with them, but for what `richkd.evaluate.corruptions.weather` says of frost and
water, and values are rounded where the original cuts them off.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from richkd.core.errors import ConfigError, nearest
from richkd.evaluate.corruptions import blur, digital, noise, weather
from richkd.evaluate.corruptions.draws import Draws, draws_for
from richkd.evaluate.corruptions.severity import SEVERITIES, constants

GROUPS: dict[str, tuple[str, ...]] = {
    "noise": ("gaussian_noise", "shot_noise", "impulse_noise"),
    "blur": ("defocus_blur", "glass_blur", "motion_blur", "zoom_blur"),
    "weather": ("snow", "frost", "fog", "brightness"),
    "digital": ("contrast", "elastic_transform", "pixelate", "jpeg_compression"),
    # For tuning: what is chosen on these leaves the others unseen.
    "validation": ("speckle_noise", "gaussian_blur", "spatter", "saturate"),
}
TEST = tuple(name for group, names in GROUPS.items() if group != "validation" for name in names)

# Of bytes (B, H, W, 3) to bytes.
_OF_VALUES: dict[str, Callable[..., Tensor]] = {
    "gaussian_noise": noise.gaussian_noise,
    "shot_noise": noise.shot_noise,
    "impulse_noise": noise.impulse_noise,
    "speckle_noise": noise.speckle_noise,
}
# Of pictures (B, 3, H, W) in 0..1, with draws.
_DRAWN: dict[str, Callable[..., Tensor]] = {
    "glass_blur": blur.glass_blur,
    "motion_blur": blur.motion_blur,
    "snow": weather.snow,
    "frost": weather.frost,
    "fog": weather.fog,
    "elastic_transform": digital.elastic_transform,
    "spatter": weather.spatter,
}
# Of pictures alone.
_FIXED: dict[str, Callable[..., Tensor]] = {
    "defocus_blur": blur.defocus_blur,
    "zoom_blur": blur.zoom_blur,
    "brightness": weather.brightness,
    "contrast": digital.contrast,
    "pixelate": digital.pixelate,
    "jpeg_compression": digital.jpeg_compression,
    "gaussian_blur": blur.gaussian_blur,
    "saturate": digital.saturate,
}
CORRUPTIONS = (*TEST, *GROUPS["validation"])


def corrupt(pixels_BHWC: Tensor, name: str, severity: int, seed: int = 0) -> Tensor:
    """Corrupt square images; each result is a function of (its image, name, severity, seed).

    Args:
        pixels_BHWC: uint8 RGB, on any device.
        name: one of `CORRUPTIONS`.
        severity: 1 to 5.

    Returns:
        uint8 of the same shape.

    Raises:
        ConfigError: no such corruption or severity.
    """
    if name not in CORRUPTIONS:
        raise ConfigError(f"There is no corruption '{name}'", fix=nearest(name, CORRUPTIONS))
    if severity not in SEVERITIES:
        raise ConfigError("A severity is 1, 2, 3, 4 or 5", got=str(severity), fix="choose one of them.")
    strength = constants(name, severity, pixels_BHWC.shape[1])
    if name in _OF_VALUES:
        return _OF_VALUES[name](pixels_BHWC, _draws(pixels_BHWC, name, severity, seed), *strength)
    picture_B3HW = (pixels_BHWC.float() / 255).permute(0, 3, 1, 2).contiguous()
    if name in _DRAWN:
        changed = _DRAWN[name](picture_B3HW, _draws(pixels_BHWC, name, severity, seed), *strength)
    else:
        changed = _FIXED[name](picture_B3HW, *strength)
    return (changed.clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def _draws(pixels_BHWC: Tensor, name: str, severity: int, seed: int) -> Draws:
    return draws_for(pixels_BHWC, name, severity, seed)
