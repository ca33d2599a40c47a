"""Whole pictures as sources of training views: each view is cut from the picture itself.

A view is a crop in pixels of the source picture. It is resized once for each network, from the same crop, in
the process that decodes the picture. So networks of all resolutions see the same region, and none of them
sees an enlarged thumbnail. Source pictures keep their aspect ratio; their short side is reduced to a length
that no view needs to exceed.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Protocol, cast, runtime_checkable

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from richkd.core.errors import RichKDError
from richkd.core.node_memory import NodeMemory
from richkd.core.processes import gather_objects, rank, share_of
from richkd.core.types import Batch
from richkd.data.contents import Contents
from richkd.data.images import decode_cell, map_images
from richkd.data.split import Split
from richkd.data.stamps import Stamps
from richkd.data.views import Views
from richkd.data.workers import Lazy, Reader, empty_bytes

# A request to a worker: image indices, key and mirroring of the view of each, augmentation, sizes to render.
Request = tuple[list[int], list[int], list[bool], "PictureAugmentation", tuple[int, ...]]


@runtime_checkable
class PictureAugmentation(Protocol):
    """An augmentation whose views are cut from whole pictures.

    Example:
        >>> from richkd.data.augmentations import RandomResizedCrop
        >>> augmentation: PictureAugmentation = RandomResizedCrop(scale=(1.0, 1.0), ratio=(1.0, 1.0))
        >>> augmentation.box(key=5, height=8, width=8)
        (0, 0, 8, 8)
    """

    @property
    def smallest_share(self) -> float:
        """Smallest share of a picture's area that a view shows."""
        ...

    def box(self, key: int, height: int, width: int) -> tuple[int, int, int, int]:
        """The crop (top, left, height, width) of the view with this key, in pixels of the picture."""
        ...

    def alter(self, crops: Mapping[int, Tensor], key: int) -> Mapping[int, Tensor]:
        """The crops (uint8, S × S × 3, by S) after the operations of the view that need whole crops."""
        ...


def shrink(image: Image.Image, short: int) -> Image.Image:
    """Reduce a picture so that its short side has at most ``short`` pixels; the aspect ratio is kept.

    Example:
        >>> shrink(Image.new("RGB", (40, 20)), 10).size, shrink(Image.new("RGB", (8, 6)), 10).size
        ((20, 10), (8, 6))
    """
    least = min(image.size)
    if least <= short:
        return image
    width, height = (max(1, round(side * short / least)) for side in image.size)
    return image.resize((width, height), Image.Resampling.BICUBIC)


def resize_crop(crop_HWC: Tensor, size: int) -> Tensor:
    """Resize a crop to a square: bilinear, antialiased where it is reduced.

    Args:
        crop_HWC: uint8 pixels (H, W, 3).
        size: height and width of the result in pixels.

    Returns:
        uint8 pixels (size, size, 3).

    Example:
        >>> resize_crop(torch.full((6, 4, 3), 9, dtype=torch.uint8), 2)[..., 0].tolist()
        [[9, 9], [9, 9]]
    """
    if crop_HWC.shape[:2] == (size, size):
        return crop_HWC
    crop_13HW = crop_HWC.permute(2, 0, 1)[None]
    resized_13SS = functional.interpolate(crop_13HW, size=(size, size), mode="bilinear", antialias=True)
    return resized_13SS[0].permute(1, 2, 0)


@dataclass(frozen=True)
class Pictures:
    """The pictures of a split, from which views are cut and rendered for all networks of a run.

    Batches hold the rendered crops (`Batch.crops`) instead of source pixels.

    Args:
        split: the images.
        short: length in pixels to which the short side of a picture is reduced.
        sizes: resolutions of the networks in pixels.
        workers: number of processes; 0 renders in the main process.
        in_memory: whether reduced pictures are kept in memory; else they are decoded whenever they are read.

    Example:
        >>> import datasets
        >>> from richkd.data.augmentations import RandomResizedCrop
        >>> from richkd.data.columns import as_split
        >>> images = [Image.new("RGB", (8, 6), color) for color in ("red", "blue")]
        >>> rows = datasets.Dataset.from_dict({"image": images, "label": ["ant", "bee"]})
        >>> pictures = Pictures(as_split(rows, "train", "example"), short=6, sizes=(4, 2), workers=0)
        >>> index_B = torch.tensor([1, 0])
        >>> views = RandomResizedCrop().draw(seed=0, epoch=0, index_B=index_B)
        >>> (batch,) = pictures.batches([index_B], [views])
        >>> {size: tuple(crops.shape) for size, crops in batch.crops.items()}
        {4: (2, 4, 4, 3), 2: (2, 2, 2, 3)}
    """

    split: Split
    short: int
    sizes: tuple[int, ...]
    workers: int
    in_memory: bool = False
    _decoded: dict[int, Tensor] = field(default_factory=dict, repr=False, compare=False)
    _stamps: Stamps = field(default_factory=Stamps, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not self.in_memory:
            return

        def keep(index: int, image: Image.Image) -> None:
            self._decoded[index] = torch.from_numpy(np.array(shrink(image, self.short)))

        share, _ = share_of(len(self.split))
        for _ in map_images(self.split, keep, workers=self.workers, short=self.short, share=share):
            pass
        self._exchange()

    def _exchange(self) -> None:
        """Give all processes the pictures that each has decoded; those of a machine share them."""
        decoded = [picture for _, picture in sorted(self._decoded.items())]
        shapes = gather_objects([tuple(picture.shape) for picture in decoded])
        if len(shapes) == 1:
            return
        sizes = [sum(map(math.prod, of_one)) for of_one in shapes]
        memory = NodeMemory.of(sum(sizes))
        mine_N = torch.split(memory.bytes_N, sizes)[rank()]
        for place_P, picture in zip(torch.split(mine_N, [p.numel() for p in decoded]), decoded, strict=True):
            place_P.copy_(picture.flatten())
        memory.exchange(sizes)
        # Shares are in the order of the images.
        every = list(itertools.chain.from_iterable(shapes))
        pieces = torch.split(memory.bytes_N, list(map(math.prod, every)))
        for index, (piece_P, shape) in enumerate(zip(pieces, every, strict=True)):
            self._decoded[index] = piece_P.view(shape)

    @property
    def size(self) -> int:
        """Length in pixels of the short side of the largest source pictures."""
        return self.short

    @property
    def bytes(self) -> int:
        """Memory of decoded pictures."""
        return sum(pixels_HWC.numel() for pixels_HWC in self._decoded.values())

    def batches(
        self,
        groups: list[Tensor],
        views: Sequence[Views] = (),
        sizes: Sequence[tuple[int, ...]] | None = None,
    ) -> Iterator[Batch]:
        """One batch for each tensor of image indices.

        Args:
            groups: image indices.
            views: the views of each group.
            sizes: the sizes to render for each group; by default all.

        Raises:
            DataError: an image cannot be read, or its file changed after `fingerprint`; the message contains
                its key.
            WorkerError: a process that reads images ended.
        """

        def request(place: int) -> Request:
            view, wanted = views[place], self.sizes if sizes is None else sizes[place]
            assert view.key_B is not None, "views of whole pictures"
            augmentation = cast(PictureAugmentation, view.augmentation)
            return groups[place].tolist(), view.key_B.tolist(), view.flip_B.tolist(), augmentation, wanted

        requests = Lazy(request, len(groups))
        for index_B, result in zip(groups, self._reader.map(requests), strict=True):
            if isinstance(result, RichKDError):
                raise result
            empty_BHWC = torch.empty((len(index_B), 0, 0, 3), dtype=torch.uint8)
            yield Batch(self.split.name, index_B, empty_BHWC, self.split.labels_N[index_B], result)

    def fingerprint(self, contents: Contents | None = None) -> str:
        """SHA-256 of the contents of the files, or of embedded images, and of their order."""
        return self._stamps.fingerprint(self.split, f"pictures of {self.short}", contents)

    @cached_property
    def _reader(self) -> Reader[Request, dict[int, Tensor] | RichKDError]:
        render: Callable[[Request], dict[int, Tensor] | RichKDError]
        render = partial(_render, self.split, self.short, self._decoded, self._stamps)
        # Threads share the decoded pictures; processes also decode in parallel.
        return Reader(render, self.workers, threads=self.in_memory, keep=True)


def _render(
    split: Split, short: int, decoded: Mapping[int, Tensor], stamps: Stamps, request: Request
) -> dict[int, Tensor] | RichKDError:
    """The crops of a batch at each size; an error is returned, because raising adds a worker's traceback."""
    indices, keys, flips, augmentation, sizes = request
    crops = {size: empty_bytes(len(indices), size, size, 3) for size in sizes}
    # A whole batch is read from the table at once, which is faster than image by image.
    cells = split.cells_at(indices) if not decoded else [("", {})] * len(indices)
    for place, (index, key, flip, (name, cell)) in enumerate(zip(indices, keys, flips, cells, strict=True)):
        try:
            picture = decoded[index] if decoded else shrink(decode_cell(cell, name=name, short=short), short)
            if not decoded:
                stamps.check(index, name, cell)
        except RichKDError as error:
            return error
        crop_HWC = _cut(picture, augmentation, key)
        small = {size: resize_crop(crop_HWC, size) for size in sizes}
        if flip:
            small = {size: crop_SSC.flip(1) for size, crop_SSC in small.items()}
        for size, crop_SSC in augmentation.alter(small, key).items():
            crops[size][place] = crop_SSC
    return crops


def _cut(picture: Image.Image | Tensor, augmentation: PictureAugmentation, key: int) -> Tensor:
    if isinstance(picture, Tensor):
        top, left, height, width = augmentation.box(key, *picture.shape[:2])
        return picture[top : top + height, left : left + width]
    top, left, height, width = augmentation.box(key, picture.height, picture.width)
    # Only the crop is copied to an array.
    return torch.from_numpy(np.array(picture.crop((left, top, left + width, top + height))))
