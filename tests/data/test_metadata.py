"""Damaged metadata do not make pixels unreadable, and truncated pixels remain unreadable."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import pytest
from PIL import Image, ImageCms

from richkd.core.errors import DataError
from richkd.data.images import decode_rgb
from richkd.data.metadata import without_metadata
from tests.data.files import chunk, encode, png, segment

PIXELS = np.random.default_rng(0).integers(0, 256, (7, 9, 3), dtype=np.uint8)
IMAGE = Image.fromarray(PIXELS)
ROWS = [bytes([1, 2, 3]), bytes([4, 5, 6])]
PROFILE = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
LARGE = chunk(b"zTXt", b"key\0\0" + zlib.compress(bytes(5_000_000)))
MANY = chunk(b"zTXt", b"key\0\0" + zlib.compress(bytes(1_000_000))) * 70


def rotated() -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


def decoded(content: bytes) -> np.ndarray:
    return np.asarray(decode_rgb(content, name="x"))


def refused(content: bytes) -> bool:
    try:
        decode_rgb(content, name="x")
    except DataError:
        return True
    return False


@pytest.mark.parametrize("place", ["before", "after"])
@pytest.mark.parametrize(
    "damaged",
    [
        LARGE,
        MANY,
        chunk(b"iCCP", b"key\0\0" + zlib.compress(bytes(5_000_000))),
        chunk(b"iCCP", b"key\0\0garbage"),
        chunk(b"zTXt", b"key\0\7unknown compression"),
        chunk(b"iTXt", b"key\0\1\0\0\0garbage"),
        chunk(b"tEXt", b"key\0value", wrong_sum=True),
        chunk(b"eXIf", b"MM\0*", wrong_sum=True),
        chunk(b"eXIf", b"garbage"),
        chunk(b"pHYs", b"x"),
        chunk(b"gAMA", b"x"),
        chunk(b"cHRM", b"x"),
        chunk(b"sRGB", b""),
        chunk(b"acTL", b"x"),
    ],
    ids=range(14),
)
def test_a_png_with_damaged_or_large_chunks_is_read(damaged: bytes, place: str) -> None:
    content = png(3, ROWS, **{place: damaged})
    assert decoded(content)[..., 0].tolist() == [[1, 2, 3], [4, 5, 6]]


def test_transparency_and_palette_of_a_png_are_kept() -> None:
    content = png(3, ROWS, before=LARGE + chunk(b"tRNS", b"\0\2"))
    assert decoded(content)[..., 0].tolist() == [[1, 255, 3], [4, 5, 6]]
    palette = png(3, [bytes([0, 1, 0])], kind=3, before=LARGE + chunk(b"PLTE", bytes([9, 8, 7, 6, 5, 4])))
    assert decoded(palette).tolist() == [[[9, 8, 7], [6, 5, 4], [9, 8, 7]]]


def test_the_orientation_of_a_file_is_kept_if_it_is_intact() -> None:
    upright = np.rot90(PIXELS, -1)
    file = encode(IMAGE, exif=rotated())
    assert (decoded(file[:33] + LARGE + file[33:]) == upright).all()
    webp = encode(IMAGE, "WEBP", lossless=True, exif=rotated(), xmp=b"<x/>")
    assert (decoded(webp[:-3]) == upright).all()
    jpeg = encode(IMAGE, "JPEG", exif=rotated())
    assert (decoded(jpeg[:2] + segment(0xEE, b"Adobe") + jpeg[2:]) == decoded(jpeg)).all()


@pytest.mark.parametrize(
    "damaged",
    [
        segment(0xE0, b"JFIF\0"),
        segment(0xEE, b"Adobe"),
        segment(0xED, b"Photoshop 3.0\0008BIM\0\1"),
        segment(0xE2, b"ICC_PROFILE\0"),
        segment(0xE2, b"ICC_PROFILE\0\1\2abc"),
        segment(0xE2, b"MPF\0garbage"),
        segment(0xE1, b"Exif\0\0MM\0*\0\0\0\x08\0\3"),
        segment(0xE1, b"Exif\0\0"),
        segment(0xFE, b""),
    ],
    ids=range(9),
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_jpeg_with_damaged_segments_is_read(damaged: bytes) -> None:
    whole = encode(IMAGE, "JPEG")
    assert (decoded(whole[:2] + damaged + whole[2:]) == decoded(whole)).all()


def test_the_color_transform_of_a_jpeg_is_kept() -> None:
    whole = encode(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG")
    assert (decoded(whole[:2] + segment(0xE0, b"JFIF\0") + whole[2:]) == decoded(whole)).all()


def test_a_webp_file_with_damaged_metadata_after_its_pixels_is_read() -> None:
    whole = encode(IMAGE, "WEBP", lossless=True, exif=rotated(), xmp=b"<x/>", icc_profile=PROFILE)
    place = whole.index(b"EXIF")
    longer = whole[: place + 4] + struct.pack("<I", 5000) + whole[place + 8 :]
    for damaged in (whole[:place], whole[: place + 10], longer):
        assert (decoded(damaged) == PIXELS).all()


@pytest.mark.parametrize(
    ("image", "options", "order"),
    [
        (IMAGE, {"icc_profile": PROFILE}, "<"),
        (IMAGE, {"icc_profile": PROFILE, "compression": "tiff_lzw"}, "<"),
        # PIL writes big-endian files of big-endian pixels only.
        (Image.fromarray(np.arange(256, 298, dtype=">u2").reshape(6, 7)), {}, ">"),
    ],
    ids=["raw", "lzw", "big-endian"],
)
def test_a_tiff_with_damaged_entries_is_read(
    image: Image.Image, options: dict[str, object], order: str
) -> None:
    whole = encode(image, "TIFF", description="longer than an entry", **options)
    (start,) = struct.unpack_from(f"{order}I", whole, 4)
    damaged = []
    for number in range(struct.unpack_from(f"{order}H", whole, start)[0]):
        place = start + 2 + 12 * number
        if struct.unpack_from(f"{order}H", whole, place)[0] in (270, 34675):
            beyond = struct.pack(f"{order}I", 0xFFFFFFF0)
            damaged.append(whole[: place + 8] + beyond + whole[place + 12 :])
    assert len(damaged) == 1 + ("icc_profile" in options)
    for content in damaged:
        assert (decoded(content) == decoded(whole)).all()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF", "GIF", "BMP", "AVIF"])
def test_what_follows_the_end_of_an_image_is_ignored(kind: str) -> None:
    whole = encode(IMAGE, kind)
    assert (decoded(whole + b"garbage" * 99) == decoded(whole)).all()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF"])
def test_a_truncated_file_is_refused_or_has_all_of_its_pixels(kind: str) -> None:
    options = {} if kind == "TIFF" else {"exif": rotated()}
    whole = encode(IMAGE, kind, **options, **({"lossless": True} if kind == "WEBP" else {}))
    upright, stored = decoded(whole), decoded(encode(IMAGE, "JPEG")) if kind == "JPEG" else PIXELS
    lengths = [length for length in range(len(whole)) if not refused(whole[:length])]
    for length in lengths:
        pixels = decoded(whole[:length])
        # Only the orientation may be lost.
        assert any(pixels.shape == known.shape and (pixels == known).all() for known in (upright, stored))
    assert len(lengths) < 60


def test_other_formats_are_left_alone() -> None:
    for content in (b"", b"no image", encode(IMAGE, "BMP"), b"\xff\xd8\xff", b"II*\0", b"RIFF____WEBP"):
        list(without_metadata(content))
    assert list(without_metadata(encode(IMAGE, "BMP"))) == []
