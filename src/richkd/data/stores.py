"""The images of a run: sources of training views, and clean images as each network sees them.

Here the resolution of source images is decided. A view must not be enlarged more than the picture itself
would be: the source is as large as the largest network's input (divided by √s for crops of share s), up to
the size of the pictures.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from PIL import Image

from richkd.config.schema import AugmentConfig, DataConfig
from richkd.core.errors import ImageError, Problems
from richkd.core.regular_files import open_regular
from richkd.data.augmentations import build_augmentation
from richkd.data.batches import BYTES_PER_GB, CleanStore, Resident, Store, Streamed, open_store, refuse_remote
from richkd.data.framing import Framing
from richkd.data.pictures import PictureAugmentation, Pictures
from richkd.data.split import Split, evenly_spaced
from richkd.data.views import Augmentation

# Pictures whose headers are read to learn how large the pictures of a split are.
SAMPLE = 256


@dataclass
class Stores:
    """The images of a run.

    Attributes:
        splits: the splits of the data.
        framing: how the student sees clean images. Clean images of all splits but "train" are opened with it
            at once, so that an unreadable image is found before training.
        training: sources of training views; None without a training split.
        workers: threads or processes that decode.

    Example:
        >>> split = Split("test", None, torch.tensor([0]), ("ant",), "image", None)
        >>> Stores({"test": split}, Framing(8), None, workers=0).names
        ('test',)
    """

    splits: Mapping[str, Split]
    framing: Framing
    training: Store | None
    workers: int
    _clean: dict[tuple[str, Framing], CleanStore] = field(default_factory=dict)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all splits."""
        return tuple(self.splits)

    def clean(self, split: str, framing: Framing | None = None) -> CleanStore:
        """Clean images of a split; by default as the student sees them.

        Images for other networks are decoded directly from the pictures, whenever they are read.
        """
        key = (split, framing or self.framing)
        if key not in self._clean:
            self._clean[key] = Streamed(self.splits[split], key[1], self.workers)
        return self._clean[key]

    def decoded(self, split: str) -> bool:
        """Whether all images of a split are in memory."""
        store = self.training if split == "train" else self.clean(split)
        return isinstance(store, Pictures | Resident) and store.bytes > 0

    @property
    def bytes(self) -> int:
        """Memory of decoded images."""
        stores = {id(store): store for store in (self.training, *self._clean.values())}
        return sum(store.bytes for store in stores.values() if isinstance(store, Pictures | Resident))


def open_stores(
    splits: Mapping[str, Split],
    data: DataConfig,
    augment: AugmentConfig,
    student: Framing,
    teachers: Sequence[int],
    *,
    workers: int,
    device: torch.device | None = None,
) -> tuple[Stores, Augmentation]:
    """Open the images of a run, and build the augmentation for its sources.

    Args:
        splits: the splits of the data.
        data: settings; ``size`` replaces the resolution of training sources.
        augment: settings of the augmentation.
        student: how the student sees clean images.
        teachers: input sizes of the teachers' networks in pixels.
        workers: threads or processes that decode.
        device: where images that are kept in memory are.

    Returns:
        The images, and the augmentation of training views.

    Raises:
        ImageError: images that are kept in memory cannot be read; the message names those of all splits.

    Example:
        >>> import datasets
        >>> from richkd.data.columns import as_split
        >>> images = [Image.new("RGB", (48, 36)), Image.new("RGB", (40, 40))]
        >>> rows = datasets.Dataset.from_dict({"image": images, "label": ["ant", "bee"]})
        >>> splits = {"train": as_split(rows, "train", "example")}
        >>> stores, augmentation = open_stores(
        ...     splits, DataConfig(path="x"), AugmentConfig(), Framing(16), teachers=[224], workers=0
        ... )
        >>> augmentation  # as large as the pictures
        CropFlip(size=40, pad=5, flip=True)
    """
    problems = Problems(ImageError)
    limits: dict[str, Any] = {"in_memory_gb": data.in_memory_gb, "workers": workers, "device": device}
    clean: dict[tuple[str, Framing], CleanStore] = {}
    for name, split in splits.items():
        store = problems.attempt(open_store, split, student, **limits) if name != "train" else None
        if store is not None:
            clean[name, student] = store
    opened = problems.attempt(_open_training, splits.get("train"), data, augment, student, teachers, limits)
    problems.refuse_all()
    assert opened is not None
    training, augmentation = opened
    if isinstance(training, Resident | Streamed):
        clean["train", training.framing] = training
    return Stores(splits, student, training, workers, clean), augmentation


def _open_training(
    split: Split | None,
    data: DataConfig,
    augment: AugmentConfig,
    student: Framing,
    teachers: Sequence[int],
    limits: Mapping[str, Any],
) -> tuple[Store | None, Augmentation]:
    """The sources of training views, and the augmentation that cuts views out of them."""
    augmentation = build_augmentation(augment, student.size)
    if split is None:
        return None, augmentation
    if isinstance(augmentation, PictureAugmentation):
        sizes = tuple(dict.fromkeys((student.size, *teachers)))
        short = data.size or source_short(sizes, augmentation.smallest_share)
        return _open_pictures(split, short, sizes, data.in_memory_gb, limits["workers"]), augmentation
    framing = Framing(data.size or _square_size(split, student.size, teachers))
    return open_store(split, framing, training=True, **limits), build_augmentation(augment, framing.size)


def source_short(sizes: Iterable[int], share: float) -> int:
    """Short side of source pictures in pixels, from which crops of a share of the area are not enlarged.

    A crop of share s of a square of side a has the side a·√s, which must be at least the largest input.

    Args:
        sizes: input sizes of all networks in pixels.
        share: smallest share of the area, in (0, 1].

    Example:
        >>> source_short([64, 224], share=0.25)
        448
    """
    return math.ceil(max(sizes) / math.sqrt(share))


def picture_sizes(split: Split, most: int = SAMPLE) -> list[tuple[int, int]]:
    """Width and height of at most ``most`` pictures, evenly spaced over a split, from their headers.

    Pictures that cannot be opened are left out; decoding names them.

    Example:
        >>> import datasets
        >>> file = io.BytesIO()
        >>> Image.new("RGB", (8, 6)).save(file, "PNG")
        >>> rows = datasets.Dataset.from_dict({"image": [{"bytes": file.getvalue(), "path": None}]})
        >>> picture_sizes(Split("train", rows, torch.tensor([0]), ("ant",), "image", None))
        [(8, 6)]
    """
    sizes = []
    for _, cell in split.cells_at(evenly_spaced(len(split), most).tolist()):
        content, path = cell.get("bytes"), cell.get("path")
        try:
            file = io.BytesIO(content) if isinstance(content, bytes) else open_regular(str(path))
            with file, Image.open(file) as image:
                sizes.append(image.size)
        except Exception:  # PIL's readers raise errors of many types
            continue
    return sizes


def _square_size(split: Split, student: int, teachers: Sequence[int]) -> int:
    """Side of square sources: the largest input, up to the largest picture, but at least the student's."""
    largest = max(teachers, default=0)
    if largest <= student:
        return student
    picture = max((min(size) for size in picture_sizes(split)), default=0)
    return max(student, min(largest, picture))


def _open_pictures(
    split: Split, short: int, sizes: tuple[int, ...], in_memory_gb: float, workers: int
) -> Pictures:
    sample = picture_sizes(split)
    # Pictures are never enlarged, so a larger number would only be misleading.
    short = min(short, max((min(size) for size in sample), default=short))
    areas = [width * height * min(1.0, short / min(width, height)) ** 2 for width, height in sample]
    expected = 3 * len(split) * sum(areas) / max(1, len(areas))
    in_memory = expected <= in_memory_gb * BYTES_PER_GB
    if not in_memory:
        refuse_remote(split, int(expected))
    return Pictures(split, short, sizes, workers, in_memory)
