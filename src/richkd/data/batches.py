"""Batches of square source pixels: decoded once into memory if they fit, else decoded by worker processes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from richkd.core.device import moved
from richkd.core.errors import DataError, RichKDError
from richkd.core.processes import on_first
from richkd.core.types import Batch
from richkd.data.augmentations import Clean
from richkd.data.contents import Contents
from richkd.data.framing import Framing, frame
from richkd.data.images import decode_all, decode_cell
from richkd.data.split import Split
from richkd.data.stamps import Stamps
from richkd.data.views import Views
from richkd.data.workers import Reader, empty_bytes

BYTES_PER_GB = 1 << 30


class Store(Protocol):
    """The images of a split, read in batches by index: square uint8 source pixels, or rendered views.

    Example:
        >>> import datasets
        >>> cells = [{"bytes": b"", "path": None}] * 2
        >>> rows = datasets.Dataset.from_dict({"image": cells})
        >>> split = Split("train", rows, torch.tensor([0, 1]), ("ant", "bee"), "image", None)
        >>> store: Store = Resident(split, Framing(8), torch.zeros((2, 8, 8, 3), dtype=torch.uint8))
        >>> [batch.labels_B.tolist() for batch in store.batches([torch.tensor([1, 0])])]
        [[1, 0]]
    """

    @property
    def split(self) -> Split: ...

    @property
    def size(self) -> int: ...

    def batches(
        self,
        groups: list[Tensor],
        views: Sequence[Views] = (),
        sizes: Sequence[tuple[int, ...]] | None = None,
        /,
    ) -> Iterator[Batch]:
        """One batch for each tensor of image indices.

        Args:
            groups: image indices.
            views: the views of each group, and ``sizes`` the resolutions at which they are needed. A store of
                square source pixels ignores both (``*rendering``), because views are rendered later.

        Raises:
            DataError: an image cannot be read, or its file changed after `fingerprint`; the message contains
                its key.
            WorkerError: a process that reads images ended.
        """
        ...

    def fingerprint(self, contents: Contents | None = None) -> str:
        """SHA-256 of the source pixels and their order, or of the files that they are decoded from.

        Args:
            contents: hashes of files that are known; by default every file is read.
        """
        ...


class CleanStore(Store, Protocol):
    """A store of square source pixels, framed as a network sees them in evaluation.

    Example:
        >>> import datasets
        >>> split = Split("test", datasets.Dataset.from_dict({}), torch.tensor([0]), ("ant",), "image", None)
        >>> store: CleanStore = Resident(split, Framing(8), torch.zeros((1, 8, 8, 3), dtype=torch.uint8))
        >>> store.clean
        Clean(size=8, framing=None)
    """

    @property
    def clean(self) -> Clean:
        """The view that shows the whole source image."""
        ...


@dataclass(frozen=True)
class _Square:
    split: Split
    framing: Framing

    @property
    def size(self) -> int:
        """Height and width of the source images in pixels."""
        return self.framing.size

    @property
    def clean(self) -> Clean:
        """The view that shows the whole source image."""
        return Clean(self.size, None if self.framing.plain else self.framing)


@dataclass(frozen=True)
class Resident(_Square):
    """All images of a split as one uint8 tensor on the training device; a batch is one gather operation.

    Args:
        split: the images.
        framing: how source images are cut out of the pictures.
        pixels_NHWC: uint8 source pixels.

    Example:
        >>> import datasets
        >>> rows = datasets.Dataset.from_dict({"image": [{"bytes": b"", "path": None}] * 2})
        >>> split = Split("train", rows, torch.tensor([0, 1]), ("ant", "bee"), "image", None)
        >>> pixels_NHWC = torch.tensor([10, 20], dtype=torch.uint8)[:, None, None, None].expand(2, 4, 4, 3)
        >>> (batch,) = Resident(split, Framing(4), pixels_NHWC).batches([torch.tensor([1])])
        >>> batch.pixels_BHWC[0, 0, 0].tolist(), batch.labels_B.tolist()
        ([20, 20, 20], [1])
    """

    pixels_NHWC: Tensor

    @property
    def bytes(self) -> int:
        """Memory of the pixels."""
        return self.pixels_NHWC.numel()

    def batches(self, groups: list[Tensor], *rendering: object) -> Iterator[Batch]:
        for index_B in groups:
            labels_B = self.split.labels_N[index_B]
            pixels_BHWC = self.pixels_NHWC[moved(index_B, self.pixels_NHWC.device)]
            yield Batch(self.split.name, index_B, pixels_BHWC, labels_B)

    def fingerprint(self, contents: Contents | None = None) -> str:
        return on_first(self._fingerprint)

    def _fingerprint(self) -> str:
        digest = hashlib.sha256(repr(tuple(self.pixels_NHWC.shape)).encode())
        digest.update(self.pixels_NHWC.cpu().numpy().data)
        return digest.hexdigest()


@dataclass(frozen=True)
class Streamed(_Square):
    """Images that worker processes decode when they are needed.

    Args:
        split: the images.
        framing: how source images are cut out of the pictures.
        workers: number of processes; 0 decodes in the main process.
        training: images are read in every epoch: keep the processes, and decode large JPEG files at reduced
            size. Images for evaluation are decoded in full, as images that are not files are.

    Example:
        >>> import datasets
        >>> from PIL import Image
        >>> from richkd.data.columns import as_split
        >>> images = [Image.new("RGB", (8, 6), color) for color in ("red", "blue")]
        >>> rows = datasets.Dataset.from_dict({"image": images, "label": ["ant", "bee"]})
        >>> store = Streamed(as_split(rows, "train", "example"), Framing(4), workers=0)
        >>> [list(batch.pixels_BHWC.shape) for batch in store.batches([torch.arange(2)])]
        [[2, 4, 4, 3]]
    """

    workers: int
    training: bool = False
    _stamps: Stamps = field(default_factory=Stamps, repr=False, compare=False)

    def batches(self, groups: list[Tensor], *rendering: object) -> Iterator[Batch]:
        results = self._reader.map([group.tolist() for group in groups])
        for index_B, pixels_BHWC in zip(groups, results, strict=True):
            if isinstance(pixels_BHWC, RichKDError):
                raise pixels_BHWC
            yield Batch(self.split.name, index_B, pixels_BHWC, self.split.labels_N[index_B])

    def fingerprint(self, contents: Contents | None = None) -> str:
        """SHA-256 of the contents of the files, or of embedded images, and of their order."""
        rendering = str(self.size if self.framing.plain else self.framing)
        rendering += ", reduced" if self.training else ""
        return self._stamps.fingerprint(self.split, rendering, contents)

    @cached_property
    def _reader(self) -> Reader[list[int], Tensor | RichKDError]:
        short = self.framing.resized if self.training else None
        decode = partial(_decode, self.split, self.framing, short, self._stamps)
        return Reader(decode, self.workers, keep=self.training)


def _decode(
    split: Split, framing: Framing, short: int | None, stamps: Stamps, indices: list[int]
) -> Tensor | RichKDError:
    """The pixels of a batch; an error is returned, because raising would add the traceback of a worker."""
    pixels_BHWC = empty_bytes(len(indices), framing.size, framing.size, 3)
    array_BHWC = pixels_BHWC.numpy()
    for place, (index, (name, cell)) in enumerate(zip(indices, split.cells_at(indices), strict=True)):
        try:
            array_BHWC[place] = np.asarray(frame(decode_cell(cell, name=name, short=short), framing))
            stamps.check(index, name, cell)
        except RichKDError as error:
            return error
    return pixels_BHWC


def refuse_remote(split: Split, size: int) -> None:
    """Refuse training images that would be read over the network in a random order in each epoch.

    Args:
        split: the images.
        size: bytes that their pixels would need in memory.

    Raises:
        DataError: they are on the hub.

    Example:
        >>> import datasets
        >>> from richkd.data.columns import as_split
        >>> cells = [{"bytes": b"", "path": None}] * 2
        >>> rows = datasets.Dataset.from_dict({"image": cells, "label": ["ant", "bee"]})
        >>> refuse_remote(as_split(rows, "train", "example"), size=1 << 40)
    """
    if split.remote:
        raise DataError(
            "Training images that are read from the hub must fit in memory",
            got=f"about {size / BYTES_PER_GB:.1f} GB of pixels",
            fix="raise --data.in_memory_gb, choose a smaller --data.size, or give the name of the data set "
            "without hf://datasets/, so that it is downloaded.",
        )


def open_store(
    split: Split,
    framing: Framing,
    *,
    in_memory_gb: float = 4.0,
    workers: int = 2,
    device: torch.device | None = None,
    training: bool = False,
) -> CleanStore:
    """Open the images of a split as square source pixels.

    Args:
        split: the images.
        framing: how source images are cut out of the pictures.
        in_memory_gb: largest size in GiB of the decoded pixels for a `Resident` store; `Streamed` above it.
        workers: number of decoding threads (resident) or processes (streamed).
        device: where resident pixels are kept; by default in CPU memory.
        training: see `Streamed`.

    Raises:
        DataError: some images cannot be read (only resident images are read here), or training images of the
            hub do not fit in memory.

    Example:
        >>> import datasets
        >>> from PIL import Image
        >>> from richkd.data.columns import as_split
        >>> images = [Image.new("RGB", (8, 6), color) for color in ("red", "blue")]
        >>> rows = datasets.Dataset.from_dict({"image": images, "label": ["ant", "bee"]})
        >>> split = as_split(rows, "train", "example")
        >>> store = open_store(split, Framing(4))
        >>> type(store).__name__, type(open_store(split, Framing(4), in_memory_gb=0)).__name__
        ('Resident', 'Streamed')
    """
    if len(split) * framing.size**2 * 3 <= in_memory_gb * BYTES_PER_GB:
        short = framing.resized if training else None
        return Resident(split, framing, decode_all(split, framing, workers=workers, short=short).to(device))
    if training:
        refuse_remote(split, len(split) * framing.size**2 * 3)
    return Streamed(split, framing, workers, training)
