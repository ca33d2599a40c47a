"""The images of the demo: 1,797 real handwritten digits, written as an image folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from richkd.core.errors import ConfigError, DataError

NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
SPLITS = ("train", "val", "test")
# Each of the 8×8 values of a digit is the number of ink pixels in a block of 4×4 pixels, so at most 16.
LEVELS = 16


def write_digits(
    folder: str | Path, *, size: int = 16, train_per_class: int = 10, val_per_class: int = 10, seed: int = 0
) -> Path:
    """Write scikit-learn's handwritten digits as ``folder/train|val|test/<zero…nine>/NNNN.png``.

    Strokes are white on black. A value c in [0, 16] of the 8×8 source becomes the gray level round(255·c/16).
    Images are enlarged to ``size`` × ``size`` pixels with PIL's bicubic filter. NNNN is the position of the
    image in scikit-learn's data. Existing intact images are not written again.

    Args:
        folder: the folder.
        size: height and width of the images in pixels, at least 8.
        train_per_class: number of training images of each class.
        val_per_class: number of validation images of each class; all other images are test images.
        seed: seed of the random selection of training and validation images.

    Returns:
        ``folder`` as a path.

    Raises:
        ConfigError: the size is below 8, a number of images is below 1, or it is too large for a class.
        DataError: scikit-learn is not installed, or the folder contains images of other settings or cannot
            be written.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     digits = write_digits(folder, size=8, train_per_class=5)
        ...     len(list(digits.glob("train/*/*.png"))), len(list(digits.glob("*/*/*.png")))
        (50, 1797)
    """
    if size < 8:
        raise ConfigError(
            "Argument 'size' must be at least 8, the size of the source images",
            got=f"size={size}",
            fix="use size=16.",
        )
    pixels_NHW, labels_N = _load()
    split_N = _divide(labels_N, train_per_class, val_per_class, seed)
    folder = Path(folder)
    pixels_of = {
        folder / split_N[i] / NAMES[labels_N[i]] / f"{i:04d}.png": pixels_NHW[i] for i in range(len(labels_N))
    }
    _check_folder(folder, set(pixels_of))
    try:
        for path, counts_HW in pixels_of.items():
            image = _enlarge(counts_HW, size)
            if not _is_written(path, image):
                path.parent.mkdir(parents=True, exist_ok=True)
                image.save(path)
    except OSError as error:
        raise DataError(
            f"The folder of the digits, {folder}, must be writable",
            got=str(error),
            fix="use another folder.",
        ) from error
    return folder


def _load() -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise DataError(
            "The demo needs scikit-learn for its handwritten digits",
            got=str(error),
            fix="in a clone of richkd: pip install '.[demo]'",
        ) from error
    digits = load_digits()
    return digits.images, digits.target.astype(np.int64)


def _divide(labels_N: NDArray[np.int64], train: int, val: int, seed: int) -> NDArray[np.str_]:
    """The split of each image."""
    smallest = int(np.bincount(labels_N).min())
    if train < 1 or val < 1 or train + val >= smallest:
        raise ConfigError(
            f"Every split needs an image of each class; the smallest class has {smallest} images",
            got=f"train_per_class={train}, val_per_class={val}",
            fix=f"use values of at least 1, with a sum of at most {smallest - 1}.",
        )
    split_N = np.full(len(labels_N), "test", dtype="<U5")
    rng = np.random.default_rng(seed)
    for label in range(len(NAMES)):
        drawn = rng.permutation(np.flatnonzero(labels_N == label))
        split_N[drawn[:train]] = "train"
        split_N[drawn[train : train + val]] = "val"
    return split_N


def _enlarge(counts_HW: NDArray[np.float64], size: int) -> Image.Image:
    gray_HW = np.rint(counts_HW * (255 / LEVELS)).astype(np.uint8)
    return Image.fromarray(gray_HW).resize((size, size), Image.Resampling.BICUBIC)


def _existing(folder: Path) -> Iterator[Path]:
    for split in SPLITS:
        yield from (folder / split).glob("*/*")


def _check_folder(folder: Path, expected: set[Path]) -> None:
    """Check that there are no files of other settings, which could put an image into two splits."""
    unexpected = sorted(set(_existing(folder)) - expected)
    if unexpected:
        raise DataError(
            f"{folder} must be empty or contain the digits of the same settings",
            got=f"{len(unexpected)} other files, first {unexpected[0].relative_to(folder)}",
            fix="use an empty folder.",
        )


def _is_written(path: Path, image: Image.Image) -> bool:
    """Whether the file has exactly these pixels; a partially written file does not."""
    if not path.is_file():
        return False
    try:
        with Image.open(path) as existing:
            return (
                existing.mode == image.mode
                and existing.size == image.size
                and existing.tobytes() == image.tobytes()
            )
    except OSError:
        return False
