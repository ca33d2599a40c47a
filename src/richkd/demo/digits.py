"""The images of the embedded demo: 1,797 real handwritten digits as an image folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from richkd.core.errors import ConfigError, DataError

NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
SPLITS = ("train", "val", "test")
# The digits are 8×8 counts of ink in blocks of 4×4 pixels.
LEVELS = 16


def write_digits(
    folder: Path, *, size: int = 16, train_per_class: int = 10, val_per_class: int = 10, seed: int = 0
) -> Path:
    """Write scikit-learn's handwritten digits as ``folder/train|val|test/<zero…nine>/NNNN.png``.

    Strokes are white on black. The 8×8 counts c in [0, 16] become gray levels round(255·c/16) and are
    enlarged to ``size`` × ``size`` pixels by PIL's bicubic filter. Of each class, ``train_per_class`` and
    ``val_per_class`` images are drawn without replacement under ``seed``; all others are the test split.
    NNNN is the image's position in scikit-learn's data, so every image has one name for ever. Images that
    are there already are not written again; an image that other settings left there is refused.

    Returns:
        ``folder``.

    Raises:
        ConfigError: a size below 8, a count below 1 or too large for the smallest class.
        DataError: scikit-learn is missing, or the folder holds other images or cannot be written.
    """
    if size < 8:
        raise ConfigError(
            "The digits are 8×8 pixels, and can only be enlarged", got=f"size={size}", fix="16."
        )
    pixels_NHW, labels_N = _load()
    split_N = _divide(labels_N, train_per_class, val_per_class, seed)
    folder = Path(folder)
    wanted = {
        folder / split_N[i] / NAMES[labels_N[i]] / f"{i:04d}.png": pixels_NHW[i] for i in range(len(labels_N))
    }
    _check_folder(folder, set(wanted))
    try:
        for path, counts_HW in wanted.items():
            image = _enlarge(counts_HW, size)
            if not _is_written(path, image):
                path.parent.mkdir(parents=True, exist_ok=True)
                image.save(path)
    except OSError as error:
        raise DataError(
            f"The demo writes its digits to {folder}",
            got=str(error),
            fix="name a folder that can be written.",
        ) from error
    return folder


def _load() -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise DataError(
            "The demo takes its handwritten digits from scikit-learn",
            got=str(error),
            fix="install it with: pip install 'richkd[demo]'",
        ) from error
    digits = load_digits()
    return digits.images, digits.target.astype(np.int64)


def _divide(labels_N: NDArray[np.int64], train: int, val: int, seed: int) -> NDArray[np.str_]:
    """The split of each image."""
    smallest = int(np.bincount(labels_N).min())
    if train < 1 or val < 1 or train + val >= smallest:
        raise ConfigError(
            f"Every split needs an image of each class, and the smallest class has {smallest}",
            got=f"train_per_class={train}, val_per_class={val}",
            fix=f"take at least 1 of each, and together at most {smallest - 1}.",
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


def _check_folder(folder: Path, wanted: set[Path]) -> None:
    """Refuse files of another division: an image in two splits would be a leak."""
    foreign = sorted(set(_existing(folder)) - wanted)
    if foreign:
        raise DataError(
            f"{folder} must hold the demo's digits under these settings, or nothing",
            got=f"{len(foreign)} other files, first {foreign[0].relative_to(folder)}",
            fix="name an empty folder.",
        )


def _is_written(path: Path, image: Image.Image) -> bool:
    """Whether the file holds these very pixels; a half-written one does not."""
    if not path.is_file():
        return False
    try:
        with Image.open(path) as result:
            return (
                result.mode == image.mode
                and result.size == image.size
                and result.tobytes() == image.tobytes()
            )
    except OSError:
        return False
