"""Stores of corrupted images: computed from a split, or read from the published files of CIFAR-C.

Their batches have no split name, so that outputs stored for the original images are not returned for them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from richkd.core.archives import read_npy
from richkd.core.errors import DataError
from richkd.core.types import Batch
from richkd.data.augmentations import Clean
from richkd.data.batches import CleanStore
from richkd.data.contents import Contents
from richkd.data.split import Split
from richkd.evaluate.corruptions.corrupt import corrupt
from richkd.evaluate.corruptions.severity import SEVERITIES

FIX = "give the folder of the published files: labels.npy, and uint8 (5·N, 32, 32, 3) per corruption."


@dataclass(frozen=True)
class CorruptedStore:
    """A store whose images are corrupted batch by batch, as they are read.

    Example:
        >>> import datasets
        >>> rows = datasets.Dataset.from_dict({"image": [b""] * 2})
        >>> split = Split("test", rows, torch.tensor([0, 1]), ("ant", "bee"), "image", None)
        >>> from richkd.data.batches import Resident
        >>> from richkd.data.framing import Framing
        >>> clean = Resident(split, Framing(8), torch.full((2, 8, 8, 3), 100, dtype=torch.uint8))
        >>> (batch,) = CorruptedStore(clean, "brightness", severity=3).batches([torch.arange(2)])
        >>> batch.pixels_BHWC[0, 0, 0].tolist()
        [138, 138, 138]
    """

    store: CleanStore
    name: str
    severity: int
    seed: int = 0

    @property
    def split(self) -> Split:
        """The split of the original images."""
        return self.store.split

    @property
    def size(self) -> int:
        """Height and width of the images in pixels."""
        return self.store.size

    @property
    def clean(self) -> Clean:
        """The view that shows the whole image."""
        return self.store.clean

    def batches(self, groups: list[Tensor], *rendering: object) -> Iterator[Batch]:
        """A batch of corrupted images for each list of image indices."""
        for batch in self.store.batches(groups):
            pixels = corrupt(batch.pixels_BHWC, self.name, self.severity, self.seed)
            yield replace(batch, split=None, pixels_BHWC=pixels)

    def fingerprint(self, contents: Contents | None = None) -> str:
        """The fingerprint of the original images, with the corruption, its severity and the seed."""
        return f"{self.store.fingerprint(contents)} {self.name} {self.severity} {self.seed}"


@dataclass(frozen=True)
class PublishedStore:
    """One severity of a published file, memory-mapped.

    ``rows_N`` is the row of each image of the split within that severity.

    Example:
        >>> import datasets
        >>> rows = datasets.Dataset.from_dict({"image": [b""] * 2})
        >>> split = Split("test", rows, torch.tensor([0, 1]), ("ant", "bee"), "image", None)
        >>> pixels_NHWC = np.full((2, 8, 8, 3), 100, dtype=np.uint8)
        >>> store = PublishedStore(split, Path("fog.npy"), pixels_NHWC, np.array([0, 1]))
        >>> [batch.labels_B.tolist() for batch in store.batches([torch.tensor([1, 0])])]
        [[1, 0]]
    """

    split: Split
    file: Path
    pixels_NHWC: NDArray[np.uint8]
    rows_N: NDArray[np.int64]

    @property
    def size(self) -> int:
        """Height and width of the images in pixels."""
        return int(self.pixels_NHWC.shape[1])

    @property
    def clean(self) -> Clean:
        """The view that shows the whole image."""
        return Clean(self.size)

    def batches(self, groups: list[Tensor], *rendering: object) -> Iterator[Batch]:
        """A batch of the images of the file for each list of image indices."""
        for index_B in groups:
            pixels = torch.from_numpy(self.pixels_NHWC[self.rows_N[index_B.numpy()]])
            yield Batch(None, index_B, pixels, self.split.labels_N[index_B])

    def fingerprint(self, contents: Contents | None = None) -> str:
        """The path of the file."""
        return str(self.file)


def published_stores(folder: Path, name: str, split: Split) -> list[PublishedStore]:
    """The five severities of one corruption from CIFAR-C files, for the test images of ``split``.

    Severity s is in rows [(s − 1)·N, s·N). If some test images are used for calibration
    (``data.test_calibration_fraction``), only the rows of the remaining images are read.

    Raises:
        DataError: a file is missing, is not a plain array, or does not belong to the images of the split.

    Example:
        >>> import datasets, tempfile
        >>> rows = datasets.Dataset.from_dict({"image": [b""] * 2})
        >>> split = Split("test", rows, torch.tensor([0, 1]), ("ant", "bee"), "image", None)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     np.save(f"{folder}/labels.npy", np.array([0, 1]))
        ...     np.save(f"{folder}/fog.npy", np.zeros((10, 8, 8, 3), dtype=np.uint8))
        ...     len(published_stores(Path(folder), "fog", split))
        5
    """
    images, rows_N = _rows(folder, split)
    file = folder / f"{name}.npy"
    pixels = _array(file)
    side = pixels.shape[1] if pixels.ndim == 4 else 0
    if pixels.dtype != np.uint8 or not side or pixels.shape != (len(SEVERITIES) * images, side, side, 3):
        raise DataError(
            f"{file} must hold five severities of {images:,} RGB images",
            got=f"{pixels.dtype} array of shape {pixels.shape}",
            fix=FIX,
        )
    images_NHWC = pixels.view(np.uint8)
    return [
        PublishedStore(split, file, images_NHWC[number * images : (number + 1) * images], rows_N)
        for number in range(len(SEVERITIES))
    ]


def _rows(folder: Path, split: Split) -> tuple[int, NDArray[np.int64]]:
    """The number of images in the files, and the row of each image of the split."""
    labels_N = _labels(folder)
    images = len(labels_N)
    rows_N = np.arange(len(split)) if split.origin_N is None else split.origin_N.numpy()
    if rows_N.max(initial=0) >= images or not np.array_equal(labels_N[rows_N], split.labels_N.numpy()):
        raise DataError(
            f"{folder / 'labels.npy'} must hold the labels of the test images, in their order",
            got=f"{images:,} labels that differ from those of {len(split):,} test images",
            fix="evaluate on the data set that the corrupted files were made from.",
        )
    return images, rows_N


def _labels(folder: Path) -> NDArray[np.int64]:
    """Labels of the N images: the published file repeats them for each severity, but need not."""
    file = folder / "labels.npy"
    labels = _array(file)
    repeats = len(SEVERITIES)
    if labels.ndim != 1 or not np.issubdtype(labels.dtype, np.integer) or not len(labels):
        raise DataError(
            f"{file} must hold one integer for each image",
            got=f"{labels.dtype} array of shape {labels.shape}",
            fix=FIX,
        )
    whole = np.asarray(labels, dtype=np.int64)
    if len(whole) % repeats == 0:
        blocks = whole.reshape(repeats, -1)
        if (blocks == blocks[:1]).all():
            whole = whole[: len(whole) // repeats]
    return whole


def _array(file: Path) -> NDArray[np.generic]:
    # Loading a pickle can run any code.
    try:
        array: NDArray[np.generic] = read_npy(file)
    except FileNotFoundError:
        raise DataError(f"{file} does not exist", got=str(file.parent), fix=FIX) from None
    except (ValueError, OSError) as error:
        raise DataError(f"{file} cannot be read as a plain array", got=str(error), fix=FIX) from error
    return array
