"""Images that a student is given: paths, images of PIL, and arrays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from richkd.core.errors import DataError
from richkd.core.visible import one_line
from richkd.data.images import decode_rgb
from richkd.data.rgb import scale_transparent_color, to_rgb

ImageLike = str | Path | Image.Image | NDArray[Any]


def name_of_image(image: ImageLike, place: int) -> str:
    """What an image is called in a message: its path, or its place in the batch, counted from 0.

    Example:
        >>> name_of_image("a.png", 3), name_of_image(np.zeros((4, 6), dtype=np.uint8), 3)
        ('a.png', 'image 3')
    """
    return str(image) if isinstance(image, str | Path) else f"image {place}"


def rgb_of(image: ImageLike) -> Image.Image:
    """An image as 8-bit RGB, from a path, an image or an array.

    Raises:
        DataError: see `Student.probabilities`.

    Example:
        >>> rgb_of(np.zeros((4, 6), dtype=np.uint8)).size
        (6, 4)
    """
    if isinstance(image, str | Path):
        return decode_rgb(Path(image), name=str(image))
    if isinstance(image, np.ndarray):
        channels = image.shape[2] if image.ndim == 3 else 1
        if image.dtype != np.uint8 or image.ndim not in (2, 3) or channels not in (1, 3, 4) or not image.size:
            raise DataError(
                "An array must hold one image as uint8 of shape (H, W), (H, W, 3) or (H, W, 4)",
                got=f"{image.dtype} of shape {image.shape}",
                fix="convert it, for example (255 * array).astype('uint8') for values in [0, 1].",
            )
        image = Image.fromarray(image[:, :, 0] if image.ndim == 3 and channels == 1 else image)
    if not isinstance(image, Image.Image):
        raise DataError(
            "An image must be a path, an image of PIL or an array of uint8",
            got=type(image).__name__,
            fix="convert a tensor in [0, 1] by (255 * tensor).byte().permute(1, 2, 0).numpy().",
        )
    try:
        scale_transparent_color(image)
        image.load()
    # Readers of damaged files, and of images whose file was closed, raise errors of many types.
    except Exception as error:
        raise DataError(
            "An image of PIL must have pixels that can be read",
            got=f"{type(error).__name__}: {one_line(error)}",
            fix="replace its file, or keep it open until the image was read.",
        ) from error
    try:
        return to_rgb(image)
    except ValueError as error:
        raise DataError(
            "An image must have 8 or 16 bits per channel",
            got=str(error),
            fix="scale its values to 0..255 and save it with 8 bits.",
        ) from None
