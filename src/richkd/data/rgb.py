"""Convert an image of any mode of PIL to 8-bit RGB."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageOps

# Levels of gray of PNG files with few bits per pixel, by the raw mode of PIL's decoder.
LEVELS = {"L;2": 3, "L;4": 15}


def to_rgb(image: Image.Image, *, owned: bool = False) -> Image.Image:
    """Convert an image to 8-bit RGB, with its EXIF orientation applied; see `richkd.data.images.decode_rgb`.

    An orientation that cannot be read is ignored.

    Args:
        image: the image.
        owned: whether the image may be changed, and returned if it is RGB already. Two copies take a tenth of
            the time in which a JPEG file is decoded.

    Raises:
        ValueError: the value range of the pixels is unknown.

    Example:
        >>> half = Image.new("RGBA", (1, 1), (0, 0, 0, 0))  # transparent black becomes white
        >>> to_rgb(half).getpixel((0, 0))
        (255, 255, 255)
    """
    scale_transparent_color(image)
    image.load()
    upright = image
    try:
        if owned:
            ImageOps.exif_transpose(image, in_place=True)
        else:
            upright = ImageOps.exif_transpose(image)
    except Exception:  # PIL's reader of EXIF raises errors of many types for damaged entries
        upright = image
    if owned and upright.mode == "RGB" and not upright.has_transparency_data:
        return upright
    return _converted(upright)


def scale_transparent_color(image: Image.Image) -> None:
    """Scale the transparent color of a PNG file as PIL scales its pixels to 8 bits, before they are loaded.

    PIL keeps the color in the unit of the file, so it equals no pixel of 2, 4 or 3 × 16 bits. Once the pixels
    are loaded, nothing happens.

    Example:
        >>> scale_transparent_color(Image.new("L", (1, 1)))
    """
    color, tiles = image.info.get("transparency"), getattr(image, "tile", None)
    if color is None or not tiles:
        return
    raw_mode = tiles[0][3]
    if raw_mode in LEVELS and isinstance(color, int):
        image.info["transparency"] = color * 255 // LEVELS[raw_mode]
    elif raw_mode == "RGB;16B" and isinstance(color, tuple):
        # Pixels whose high bytes are those of the color cannot be told from it.
        image.info["transparency"] = tuple(value >> 8 for value in color)


def _converted(image: Image.Image) -> Image.Image:
    if image.mode == "RGB" and not image.has_transparency_data:
        return image.copy()
    if image.mode == "I" or image.mode.startswith("I;16"):
        return _to_8_bits(image).convert("RGB")
    if image.mode == "F":
        raise ValueError("floating-point pixels of unknown value range; save the image with 8 or 16 bits")
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        white.alpha_composite(image.convert("RGBA"))
        return white.convert("RGB")
    return image.convert("RGB")


def _to_8_bits(image: Image.Image) -> Image.Image:
    """Convert grayscale values from [0, 65535] to [0, 255], rounded; the transparent value becomes white."""
    values_HW = np.asarray(image).astype(np.int64)
    if values_HW.min() < 0 or values_HW.max() > 65535:
        raise ValueError("pixels outside of [0, 65535], of unknown value range; save them with 8 or 16 bits")
    gray_HW = (values_HW + 128) // 257
    gray_HW[values_HW == image.info.get("transparency")] = 255
    return Image.fromarray(gray_HW.astype(np.uint8))
