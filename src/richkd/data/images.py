"""From the bytes of an image file to RGB pixels, one image at a time or a whole split at once.

A file that cannot be read is an error that names it: nothing is skipped, and nothing is replaced by black.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from richkd.core.errors import DataError

if TYPE_CHECKING:
    from richkd.data.split import Split

Result = TypeVar("Result")
Progress = Callable[[int, int], None]

IMAGE_SUFFIXES = frozenset(
    {".avif", ".bmp", ".dib", ".gif", ".ico", ".j2k", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg", ".pbm"}
    | {".pgm", ".png", ".pnm", ".ppm", ".qoi", ".tga", ".tif", ".tiff", ".webp"}
)
# Large enough that fetching rows costs little, small enough that workers and progress stay even.
CHUNK = 256
# How many images an error message names.
NAMED = 10
REPAIR = "replace the file by a readable image, or take it out of the data set."


def decode_rgb(data: bytes | Path, *, name: str) -> Image.Image:
    """Decode an image file, as bytes or as a path, to 8-bit RGB, turned upright by its EXIF orientation.

    Transparent pixels are laid over white, 16-bit grayscale is scaled by 1/257 to 8 bits, and grayscale,
    palette and CMYK become RGB. Of an animation the first frame counts. ``name`` is for errors.

    Raises:
        DataError: the file is missing, truncated, no image, has more pixels than PIL's limit against
            decompression bombs (``PIL.Image.MAX_IMAGE_PIXELS``), or its pixels have no known range.
    """
    try:
        with Image.open(io.BytesIO(data) if isinstance(data, bytes) else data) as image:
            limit = Image.MAX_IMAGE_PIXELS
            # PIL itself only warns between its limit and twice its limit.
            if limit is not None and image.width * image.height > limit:
                raise Image.DecompressionBombError(
                    f"{image.width}×{image.height} pixels, more than the limit of {limit} pixels"
                )
            image.load()
            ImageOps.exif_transpose(image, in_place=True)
            return _to_rgb(image)
    # PIL's readers meet damaged files with anything from OSError to struct.error and IndexError.
    except Exception as error:
        what = f"{type(error).__name__}: {error}".replace("\n", " ")
        raise DataError(f"Image {name} must be readable", got=what, fix=REPAIR) from error


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB" and not image.has_transparency_data:
        return image.copy()
    if image.mode == "I" or image.mode.startswith("I;16"):
        return _to_8_bits(image).convert("RGB")
    if image.mode == "F":
        raise ValueError("floating-point pixels, whose white is not known; save it with 8 or 16 bits")
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        white.alpha_composite(image.convert("RGBA"))
        return white.convert("RGB")
    return image.convert("RGB")


def _to_8_bits(image: Image.Image) -> Image.Image:
    """Grayscale with the range [0, 65535] as grayscale with the range [0, 255], rounded to the nearest."""
    pixels_HW = np.asarray(image).astype(np.int64)
    if pixels_HW.min() < 0 or pixels_HW.max() > 65535:
        raise ValueError("32-bit pixels, whose white is not known; save it with 8 or 16 bits")
    return Image.fromarray(((pixels_HW + 128) // 257).astype(np.uint8))


def square(image: Image.Image, size: int) -> Image.Image:
    """Resize the short side to ``size`` pixels (PIL's bicubic, antialiased), then crop the center square.

    An image that is ``size`` × ``size`` already is returned untouched. Lengths and offsets are rounded as in
    torchvision's ``Resize`` and ``CenterCrop``.
    """
    width, height = image.size
    if (width, height) == (size, size):
        return image
    short = min(width, height)
    width, height = int(size * width / short), int(size * height / short)
    if (width, height) != image.size:
        image = image.resize((width, height), Image.Resampling.BICUBIC)
    left, top = round((width - size) / 2), round((height - size) / 2)
    return image.crop((left, top, left + size, top + size))


def decode_cell(cell: dict[str, bytes | str | None], *, name: str) -> Image.Image:
    """Decode a cell of an image column, which holds the file's bytes or its path.

    Raises:
        DataError: the cell is empty, or :func:`decode_rgb` cannot read what it holds.
    """
    data = cell.get("bytes") if cell else None
    path = cell.get("path") if cell else None
    if isinstance(data, bytes):
        return decode_rgb(data, name=name)
    if not path:
        raise DataError(f"Image {name} must hold bytes or a path", got="an empty cell", fix=REPAIR)
    return decode_rgb(Path(str(path)), name=name)


def decode_all(split: Split, size: int, workers: int = 2, progress: Progress | None = None) -> Tensor:
    """Decode a whole split into one uint8 tensor (N, size, size, 3), each image through :func:`square`.

    ``workers`` is the number of threads (decoding and resizing leave Python's lock); ``progress`` is called
    with (images done, images in all).

    Raises:
        DataError: once for all unreadable images, with their number and the first ten by key.
    """
    pixels_NHWC = torch.empty((len(split), size, size, 3), dtype=torch.uint8)
    array_NHWC = pixels_NHWC.numpy()

    def place(index: int, image: Image.Image) -> None:
        array_NHWC[index] = np.asarray(square(image, size))

    for _ in map_images(split, place, workers=workers, progress=progress):
        pass
    return pixels_NHWC


def map_images(
    split: Split,
    function: Callable[[int, Image.Image], Result],
    *,
    workers: int = 2,
    progress: Progress | None = None,
) -> Iterator[Result]:
    """Results of ``function(index, image)`` for the images of a split, in order, computed by threads.

    Raises:
        DataError: after the last image, once for all images that cannot be read.
    """

    def chunk(start: int) -> tuple[list[Result], list[DataError]]:
        results: list[Result] = []
        errors: list[DataError] = []
        stop = min(start + CHUNK, len(split))
        for index, (name, cell) in enumerate(split.cells(start, stop), start=start):
            try:
                image = decode_cell(cell, name=name)
            except DataError as error:
                errors.append(error)
            else:
                results.append(function(index, image))
        return results, errors

    unreadable: list[DataError] = []
    with ThreadPoolExecutor(max(1, workers)) as pool:
        for number, (results, errors) in enumerate(pool.map(chunk, range(0, len(split), CHUNK))):
            unreadable += errors
            yield from results
            if progress is not None:
                progress(min((number + 1) * CHUNK, len(split)), len(split))
    if unreadable:
        raise _all_unreadable(split, unreadable)


def _all_unreadable(split: Split, errors: list[DataError]) -> DataError:
    lines = [f"{error.rule.removesuffix(' must be readable')}: {error.got}" for error in errors[:NAMED]]
    more = f"\n  and {len(errors) - NAMED} more" if len(errors) > NAMED else ""
    return DataError(
        f"Every image of the {split.name} split must be readable",
        got=f"{len(errors)} of {len(split)} that are not:\n  " + "\n  ".join(lines) + more,
        fix="replace these files by readable images, or take them out of the data set.",
    )


def duplicates(a: Split, b: Split, workers: int = 2) -> list[tuple[str, str]]:
    """Pairs (key in ``a``, key in ``b``) of images with the same decoded pixels: leaks between splits.

    Two images are the same when the 128-bit BLAKE2b hashes of their sizes and RGB bytes are equal.

    Raises:
        DataError: naming the images that cannot be read.
    """

    def digest(index: int, image: Image.Image) -> bytes:
        size = f"{image.width}x{image.height}:".encode()
        return hashlib.blake2b(size + image.tobytes(), digest_size=16).digest()

    seen: dict[bytes, list[int]] = {}
    for index, value in enumerate(map_images(a, digest, workers=workers)):
        seen.setdefault(value, []).append(index)
    pairs = [
        (first, second)
        for second, value in enumerate(map_images(b, digest, workers=workers))
        for first in seen.get(value, ())
    ]
    return [(a.key(first), b.key(second)) for first, second in sorted(pairs)]
