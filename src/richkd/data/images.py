"""Decode image files to RGB pixels, one image at a time or a whole split at once.

A file that cannot be read raises an error that names it. No image is skipped or replaced by black pixels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from PIL import Image
from torch import Tensor

from richkd.core.errors import DataError, ImageError
from richkd.core.node_memory import NodeMemory
from richkd.core.processes import gather_objects, share_of
from richkd.core.waiting import waiting
from richkd.data.framing import Framing, frame
from richkd.data.opening import REPAIR, load_picture
from richkd.data.rgb import to_rgb

if TYPE_CHECKING:
    from richkd.data.split import Split

Result = TypeVar("Result")
Progress = Callable[[int, int], None]

# Images that a thread decodes at a time: enough to make reading rows cheap, few enough to balance threads.
CHUNK = 256
# Number of images that an error message lists.
NAMED = 10


def decode_rgb(data: bytes | str | Path, *, name: str, short: int | None = None) -> Image.Image:
    """Decode an image file to 8-bit RGB and apply its EXIF orientation.

    Transparent images are composited over white. 16-bit grayscale is scaled by 1/257 to 8 bits; of 16-bit
    color, PIL keeps the high byte. Grayscale, palette, CMYK and Lab images are converted to RGB. For an
    animation, the first frame is used. Metadata that cannot be read are ignored.

    Args:
        data: content or path of the file.
        name: key of the image, for error messages.
        short: length in pixels to which the caller reduces the short side. A JPEG file is decoded at 1/2, 1/4
            or 1/8 of its size if its short side remains at least as long, which is faster.

    Raises:
        ImageError: the file is missing, truncated or not an image; the value range of its pixels is unknown
            (floating-point and 32-bit images); or it has more pixels than `richkd.data.opening.pixel_limit`.
            The limit is about the full size, although a reduced JPEG needs less memory: a data set must not
            be accepted or refused according to the resolution of a run.

    Example:
        >>> import io
        >>> file = io.BytesIO()
        >>> Image.new("L", (3, 2), color=128).save(file, "PNG")
        >>> image = decode_rgb(file.getvalue(), name="gray.png")
        >>> image.mode, image.size, image.getpixel((0, 0))
        ('RGB', (3, 2), (128, 128, 128))
    """
    image = load_picture(data, name=name, short=short)
    try:
        return to_rgb(image, owned=True)
    except Exception as error:
        raise ImageError(f"Image {name} must be readable", got=str(error), fix=REPAIR) from error


def decode_cell(cell: dict[str, bytes | str | None], *, name: str, short: int | None = None) -> Image.Image:
    """Decode a cell of an image column to 8-bit RGB.

    Args:
        cell: ``{"bytes": …, "path": …}``; the bytes of an image file, or None and its path.
        name: key of the image, for error messages.
        short: see `decode_rgb`.

    Raises:
        ImageError: the cell is empty, or :func:`decode_rgb` cannot read the file.

    Example:
        >>> import io
        >>> file = io.BytesIO()
        >>> Image.new("RGB", (3, 2), color=(1, 2, 3)).save(file, "PNG")
        >>> decode_cell({"bytes": file.getvalue(), "path": None}, name="x").getpixel((0, 0))
        (1, 2, 3)
    """
    data = cell.get("bytes") if cell else None
    path = cell.get("path") if cell else None
    if isinstance(data, bytes):
        return decode_rgb(data, name=name, short=short)
    if not path:
        raise ImageError(f"Image {name} must hold bytes or a path", got="an empty cell", fix=REPAIR)
    return decode_rgb(str(path), name=name, short=short)


def decode_all(
    split: Split,
    framing: Framing,
    workers: int = 2,
    progress: Progress | None = None,
    short: int | None = None,
) -> Tensor:
    """Decode all images of a split to square pixels (see `richkd.data.framing.frame`).

    Each of several processes decodes its share, and all get the pixels. On one machine they share the memory.

    Args:
        split: the images to decode.
        framing: size of the result, and how it is cut out of each image.
        workers: number of threads; decoding and resizing release Python's global lock.
        progress: called with (images done, images in total).
        short: see `decode_rgb`.

    Returns:
        uint8 pixels (N, size, size, 3).

    Raises:
        ImageError: some images cannot be read; the message has their number and the keys of the first ten.

    Example:
        >>> import datasets
        >>> from richkd.data.columns import as_split
        >>> images = [Image.new("RGB", (8, 6), color) for color in ("red", "blue")]
        >>> rows = datasets.Dataset.from_dict({"image": images, "label": ["ant", "bee"]})
        >>> decode_all(as_split(rows, "train", "example"), Framing(4))[:, 0, 0].tolist()
        [[255, 0, 0], [0, 0, 255]]
    """
    shape = (len(split), framing.size, framing.size, 3)
    memory = NodeMemory.of(math.prod(shape))
    pixels_NHWC = memory.bytes_N.view(shape)
    array_NHWC = pixels_NHWC.numpy()

    def place(index: int, image: Image.Image) -> None:
        array_NHWC[index] = np.asarray(frame(image, framing))

    share, sizes = share_of(len(split))
    for _ in map_images(split, place, workers=workers, progress=progress, short=short, share=share):
        pass
    memory.exchange([size * math.prod(shape[1:]) for size in sizes])
    return pixels_NHWC


def map_images(
    split: Split,
    function: Callable[[int, Image.Image], Result],
    *,
    workers: int = 2,
    progress: Progress | None = None,
    short: int | None = None,
    share: slice | None = None,
) -> Iterator[Result]:
    """Call ``function(index, image)`` for each image of a split, in threads, and yield its results in order.

    Args:
        split: the images to decode.
        function: called with the position of an image and its RGB pixels; must be thread-safe.
        workers: number of threads.
        progress: called with (images done, images in total).
        short: see `decode_rgb`.
        share: the images that this process reads, where several processes read a share each; None for all.

    Raises:
        ImageError: some images cannot be read. It is raised after the last image, for all of them together,
            and in all processes that read a share.

    Example:
        >>> import datasets
        >>> from richkd.data.columns import as_split
        >>> images = [Image.new("RGB", (8, 6)), Image.new("RGB", (5, 5))]
        >>> rows = datasets.Dataset.from_dict({"image": images, "label": ["ant", "bee"]})
        >>> list(map_images(as_split(rows, "train", "example"), lambda index, image: image.width))
        [8, 5]
    """

    def chunk(start: int) -> tuple[list[Result], list[DataError]]:
        results: list[Result] = []
        errors: list[DataError] = []
        stop = min(start + CHUNK, last)
        for index, (name, cell) in enumerate(split.cells(start, stop), start=start):
            try:
                image = decode_cell(cell, name=name, short=short)
            except DataError as error:
                errors.append(error)
            else:
                results.append(function(index, image))
        return results, errors

    first, last, _ = (share or slice(None)).indices(len(split))
    unreadable: list[DataError] = []
    with ThreadPoolExecutor(max(1, workers)) as pool:
        chunks = waiting(
            f"decoding {split.name}",
            pool.map(chunk, range(first, last, CHUNK)),
            last - first,
            count=lambda done: len(done[0]) + len(done[1]),
        )
        for number, (results, errors) in enumerate(chunks):
            unreadable += errors
            yield from results
            if progress is not None:
                progress(min((number + 1) * CHUNK, last - first), last - first)
    if share is not None:
        unreadable = [error for errors in gather_objects(unreadable) for error in errors]
    if unreadable:
        raise _all_unreadable(split, unreadable)


def _all_unreadable(split: Split, errors: list[DataError]) -> ImageError:
    lines = [f"{error.rule.removesuffix(' must be readable')}: {error.got}" for error in errors[:NAMED]]
    more = f"\n  and {len(errors) - NAMED} more" if len(errors) > NAMED else ""
    fixes = list(dict.fromkeys(str(error.fix) for error in errors))
    return ImageError(
        f"Every image of the {split.name} split must be readable",
        got=f"{len(errors)} of {len(split)} images are not:\n  " + "\n  ".join(lines) + more,
        # Images that are too large differ in the limit that they need.
        fix=" Or: ".join(fixes[:3]).replace("the file", "these files") if len(errors) > 1 else fixes[0],
    )
