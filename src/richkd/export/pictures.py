"""The pictures on which an artifact is compared with its student: real ones where there are any."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image
from torch import Tensor

from richkd.core.errors import ConfigError, DataError, RichKDError
from richkd.core.seeds import mix_seed
from richkd.core.types import UNLABELED
from richkd.data.classes import check_same_classes
from richkd.data.images import decode_rgb
from richkd.data.split import Data, Split, evenly_spaced
from richkd.export.own_data import data_of
from richkd.export.predict import find_images

# Splits that a student is compared on, the first that exists; training images are for calibration.
COMPARED_SPLITS = ("test", "val", "calibration", "train")
# Sizes (height, width) of generated pictures: enlarged, reduced, far from square, and odd.
SHAPES = ((7, 5), (31, 47), (64, 64), (90, 233), (301, 200), (480, 640), (20, 700), (333, 333))


@dataclass(frozen=True)
class Pictures:
    """Pictures that are decoded when they are needed.

    Attributes:
        read: decodes the picture at a position to 8-bit RGB.
        positions: positions of the pictures.
        source: where they are from, for people.
        labels_N: positions of their classes; None without labels.

    Example:
        >>> pictures = generated_pictures(2)
        >>> len(pictures), [picture.size for part in pictures.parts(64) for picture in part]
        (2, [(5, 7), (47, 31)])
    """

    read: Callable[[int], Image.Image]
    positions: tuple[int, ...]
    source: str
    labels_N: Tensor | None = None

    def __len__(self) -> int:
        return len(self.positions)

    def parts(self, most: int) -> Iterator[list[Image.Image]]:
        """The pictures in order, in lists of at most ``most``.

        Raises:
            DataError: a picture cannot be read.
        """
        for start in range(0, len(self), most):
            yield [self.read(position) for position in self.positions[start : start + most]]


def generated_pictures(count: int = len(SHAPES)) -> Pictures:
    """Pictures of waves and noise in several sizes, the same ones in every call.

    Example:
        >>> generated_pictures(16).source
        '16 generated pictures'
    """
    return Pictures(_generate, tuple(range(count)), f"{count} generated pictures")


def pictures_of(
    model: str, class_names: tuple[str, ...], data: str | None, images: str | None, most: int
) -> tuple[Pictures, str | None]:
    """The pictures for the comparison, and why there are no real ones; None if there are.

    They are the files of ``images``; or held-out images of ``data``; or those of the data that the run was
    trained on; or else generated ones. At most ``most`` are taken, evenly spaced.

    Raises:
        ConfigError: both ``data`` and ``images``.
        DataError: the given images cannot be found, or the data cannot be opened.
        ClassError: ``data`` has other classes.
    """
    if data is not None and images is not None:
        raise ConfigError(
            "Pictures come from --data or from --images", got=f"{data} and {images}", fix="give one of both."
        )
    if images is not None:
        files = find_images([images])
        kept = evenly_spaced(len(files), most).tolist()
        source = f"{len(kept):,} of {len(files):,} images in {images}"
        return Pictures(lambda i: decode_rgb(files[i], name=str(files[i])), tuple(kept), source), None
    try:
        opened = data_of(model, data)
        check_same_classes(opened.class_names, class_names, where=f"student {model}", reference=opened.path)
        return held_out_pictures(opened, most), None
    except (RichKDError, OSError) as error:
        if data is not None:
            raise
        return generated_pictures(), str(error).partition("\n")[0]


def held_out_pictures(data: Data, most: int) -> Pictures:
    """Held-out images of a data set, evenly spaced.

    Raises:
        DataError: there are no images.
    """
    name = next((name for name in COMPARED_SPLITS if len(data.splits.get(name, ()))), None)
    if name is None:
        raise DataError(f"{data.path} must have images", got="none", fix="give other data.")
    return _of_split(data.splits[name], most, data.path)


def training_pictures(data: Data, most: int) -> Pictures:
    """Training images of a data set for the calibration of numbers, or held-out ones if there are none."""
    split = data.splits.get("train")
    return _of_split(split, most, data.path) if split else held_out_pictures(data, most)


def _of_split(split: Split, most: int, path: str) -> Pictures:
    index_N = evenly_spaced(len(split), most)
    source = f"{len(index_N):,} of {len(split):,} images of {split.name} in {path}"
    pictures = Pictures(split.read, tuple(index_N.tolist()), source)
    labels_N = split.labels_N[index_N]
    return pictures if bool((labels_N == UNLABELED).any()) else replace(pictures, labels_N=labels_N)


def _generate(number: int) -> Image.Image:
    height, width = SHAPES[number % len(SHAPES)]
    random = np.random.default_rng(mix_seed(0, "generated picture", number))
    rows_H11, cols_W1 = np.arange(height)[:, None, None] / height, np.arange(width)[:, None] / width
    speed_23, phase_3 = random.uniform(0, 9, (2, 3)), random.uniform(0, 6, 3)
    wave_HW3 = np.sin(speed_23[0] * rows_H11 + speed_23[1] * cols_W1 + phase_3)
    pixels_HW3 = 127.5 + 90 * wave_HW3 + random.normal(0, 12, (height, width, 3))
    return Image.fromarray(pixels_HW3.clip(0, 255).astype(np.uint8))
