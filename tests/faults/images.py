"""Hostile pictures: damaged, lying, endless, or no pictures at all."""

from __future__ import annotations

import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

from tests.data.files import chunk, encode, png, segment

SIDE = 12


def header(width: int, height: int) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))


def tiff(entries: list[tuple[int, int, int, int]], following: int = 0) -> bytes:
    """A TIFF file of one directory at 8 with entries (tag, type, count, value), and where the next one is."""
    directory = b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(entries)) + directory + struct.pack("<I", following)


def contents() -> dict[str, bytes]:
    """Content of each file by its name."""
    picture = Image.fromarray(np.arange(SIDE * SIDE * 3, dtype=np.uint8).reshape(SIDE, SIDE, 3))
    good, jpeg, gif = encode(picture), encode(picture, "JPEG"), encode(picture, "GIF")
    start = jpeg.index(b"\xff\xda")
    zeros = zlib.compress(bytes(1 << 24), 9)
    base = [(256, 4, 1, 8), (257, 4, 1, 8), (258, 3, 1, 8), (262, 3, 1, 1), (277, 3, 1, 1), (278, 4, 1, 8)]
    return {
        "empty.png": b"",
        "page.png": b"<html><body>404</body></html>",
        "zeros.png": bytes(1000),
        "truncated.png": good[: len(good) // 2],
        "signature.png": good[:8],
        "no pixels.png": header(8, 8) + chunk(b"IEND", b""),
        "wrong sum.png": header(8, 8) + chunk(b"IDAT", zlib.compress(bytes(8 * 25)), wrong_sum=True),
        "bomb.png": header(60000, 60000) + chunk(b"IDAT", zeros) + chunk(b"IEND", b""),
        "largest.png": header(2**31 - 1, 2**31 - 1) + chunk(b"IDAT", zeros),
        "no size.png": header(0, 0) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b""),
        "long chunk.png": good[:33] + b"\xff\xff\xff\xffIDAT",
        "deflate.png": header(8, 8) + chunk(b"IDAT", b"no deflate") + chunk(b"IEND", b""),
        "text bomb.png": png(1, [b"\x80"], before=chunk(b"zTXt", b"k\0\0" + zeros)),
        "profile bomb.png": png(1, [b"\x80"], before=chunk(b"iCCP", b"k\0\0" + zeros)),
        "panorama.png": png(100_000, [bytes(100_000)]),
        "tower.png": png(1, [b"\0"] * 100_000),
        "truncated.jpg": jpeg[: start + 20],
        "no scan.jpg": jpeg[:start],
        "long segment.jpg": jpeg[:2] + segment(0xE1, bytes(65_000))[:40] + jpeg[2:],
        "thumbnail.jpg": jpeg[:2] + segment(0xE1, b"Exif\0\0II*\0\xff\xff\xff\xff" + bytes(20)) + jpeg[2:],
        "large.jpg": jpeg.replace(struct.pack(">HH", SIDE, SIDE), b"\xff\xff\xff\xff", 1),
        "truncated.gif": gif[:30],
        "no frame.gif": gif[:13] + b";",
        "large.bmp": b"BM" + struct.pack("<IHHIIiiHHIIiiII", 0, 0, 0, 54, 40, 2**30, 2**30, 1, 24, *[0] * 6),
        "negative.bmp": b"BM" + struct.pack("<IHHIIiiHHIIiiII", 0, 0, 0, 54, 40, -5, -5, 1, 24, *[0] * 6),
        "large.ppm": b"P6 99999 99999 255\n",
        "words.ppm": b"P6 many more 255\n",
        "no values.pgm": b"P5 4 4 0\n" + bytes(16),
        "loop.tif": tiff([*base, (273, 4, 1, 8), (279, 4, 1, 64)], following=8),
        "count.tif": tiff([*base, (273, 4, 2**32 - 1, 8), (279, 4, 2**32 - 1, 8)]),
        "strip.tif": tiff([*base, (273, 4, 1, 2**31), (279, 4, 1, 2**31)]),
        "float.tif": encode(Image.fromarray(np.full((4, 4), 0.5, np.float32)), "TIFF"),
        "far.tif": encode(Image.fromarray(np.full((4, 4), 10**9, np.int32)), "TIFF"),
        "truncated.webp": encode(picture, "WEBP", lossless=True)[:40],
        "program.png": encode(picture, "EPS"),
        "drawing.png": b"<?xml version='1.0'?><svg xmlns='http://www.w3.org/2000/svg'/>",
        "document.jpg": b"%PDF-1.7\n%%EOF",
        "archive.jpg": b"PK\x05\x06" + bytes(18),
        "pickle.png": b"\x80\x04cposix\nsystem\n(S'touch ran'\ntR.",
        "icon.ico": b"\0\0\1\0\1\0" + struct.pack("<BBBBHHII", 0, 0, 0, 0, 1, 32, 2**31, 22),
        "photo.heic": b"\0\0\0\x18ftypheic\0\0\0\0heicmif1",
        "moving.png": header(8, 8) + chunk(b"acTL", struct.pack(">II", 2**31, 0)) + chunk(b"IEND", b""),
    }


# Their pixels are fine, so they may be predicted.
HARMLESS = frozenset(
    f"{name}.{kind}"
    for kind, names in {
        "png": ("text bomb", "profile bomb", "panorama", "tower", "wrong sum"),
        "jpg": ("thumbnail",),
        "tif": ("loop",),
    }.items()
    for name in names
)


def write_images(folder: Path) -> list[Path]:
    """Write the pictures, and paths of pictures that are no files."""
    folder.mkdir()
    for name, content in contents().items():
        (folder / name).write_bytes(content)
    paths = [folder / name for name in contents()]
    (folder / "folder.png").mkdir()
    os.mkfifo(folder / "pipe.png")
    (folder / "zero.png").symlink_to("/dev/zero")
    (folder / "loop.png").symlink_to("loop.png")
    (folder / "broken.png").symlink_to("gone.png")
    with (folder / "sparse.png").open("wb") as file:
        file.truncate(1 << 40)
    others = ("folder", "pipe", "zero", "loop", "broken", "sparse")
    return [*paths, *(folder / f"{name}.png" for name in others)]


def small_png(color: str = "red") -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (SIDE, SIDE), color).save(file, "PNG")
    return file.getvalue()
