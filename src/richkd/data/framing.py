"""How a network's input is cut out of a whole picture in evaluation: resize the short side, crop the center.

A network that was trained elsewhere comes with its own framing, for example 224 px out of a short side of
256 px (timm's ``crop_pct`` 0.875). Each network is evaluated with its own framing of the original picture, in
a run and in ``richkd evaluate`` alike.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from PIL import Image

RESAMPLING = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
    "box": Image.Resampling.BOX,
    "hamming": Image.Resampling.HAMMING,
}
# Length in pixels up to which an image is resized as a whole before the center is cropped.
LONGEST = 16384


@dataclass(frozen=True)
class Framing:
    """The part of a picture that a network sees in evaluation, and how it is resized.

    Args:
        size: height and width of the result in pixels.
        crop_pct: share of the resized short side that remains after the crop, in (0, 1].
        interpolation: a name in `RESAMPLING`; reducing is antialiased.
        squash: resize both sides to the same length, which distorts the picture, instead of cropping it.

    Example:
        >>> Framing(224, crop_pct=0.875).resized, Framing(32).plain
        (256, True)
        >>> Framing(32).crop_mode, Framing(32, squash=True).crop_mode
        ('center', 'squash')
    """

    size: int
    crop_pct: float = 1.0
    interpolation: str = "bicubic"
    squash: bool = False

    @property
    def resized(self) -> int:
        """Length in pixels of the short side before the crop; rounded as in timm."""
        return math.floor(self.size / self.crop_pct)

    @property
    def crop_mode(self) -> Literal["center", "squash"]:
        """``squash`` as the name that timm has for it."""
        return "squash" if self.squash else "center"

    @property
    def plain(self) -> bool:
        """Whether this is the framing of students: the whole center square, resized with bicubic."""
        return self == Framing(self.size)

    def __str__(self) -> str:
        if self.plain:
            return f"{self.size} px"
        shape = "squashed" if self.squash else f"of {self.resized}"
        return f"{self.size} px ({shape}, {self.interpolation})"


def frame(image: Image.Image, framing: Framing) -> Image.Image:
    """Resize a picture and crop its center; lengths and offsets are rounded as in torchvision and timm.

    A square picture that already has the right size is returned unchanged.

    Example:
        >>> frame(Image.new("RGB", (20, 10)), Framing(8)).size
        (8, 8)
    """
    size, short = framing.size, framing.resized
    if framing.squash:
        width = height = short
    else:
        image = _without_far_ends(image, short)
        least = min(image.size)
        width, height = (int(short * side / least) for side in image.size)
    if (width, height) != image.size:
        image = image.resize((width, height), RESAMPLING[framing.interpolation])
    if (width, height) == (size, size):
        return image
    left, top = round((width - size) / 2), round((height - size) / 2)
    return image.crop((left, top, left + size, top + size))


def _without_far_ends(image: Image.Image, size: int) -> Image.Image:
    """Cut the ends off an image that resizing would make very long: 1 × 20,000 pixels need gigabytes.

    What remains is longer than the center square and all pixels around it that resizing reads.
    """
    width, height = image.size
    short = min(width, height)
    keep = 4 * short + 16
    if size * max(width, height) <= LONGEST * short or max(width, height) <= keep:
        return image
    # The cut is symmetric, so the center stays the center.
    left, top = max(0, (width - keep) // 2), max(0, (height - keep) // 2)
    return image.crop((left, top, width - left, height - top))
