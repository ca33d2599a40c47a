"""Unusual pixels: transparent colors of all bit depths, 16 bits, Lab, signed values."""

from __future__ import annotations

import io
import struct

import numpy as np
import pytest
from PIL import Image

from richkd.core.errors import DataError
from richkd.data.images import decode_rgb
from richkd.data.rgb import to_rgb
from tests.data.files import COLOR, COLOR_ALPHA, GRAY_ALPHA, chunk, encode, png


def decoded(content: bytes) -> list[list[list[int]]]:
    return np.asarray(decode_rgb(content, name="x")).tolist()


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
def test_the_transparent_gray_becomes_white_at_every_bit_depth(bits: int) -> None:
    most = (1 << bits) - 1
    values = sorted({0, most // 3, most // 2, most})
    for transparent in (0, most // 3, 1):
        digits = "".join(format(value, f"0{bits}b") for value in values)
        row = int(digits.ljust(-(-len(digits) // 8) * 8, "0"), 2).to_bytes(-(-len(digits) // 8), "big")
        content = png(len(values), [row], bits=bits, before=chunk(b"tRNS", struct.pack(">H", transparent)))
        expected = [255 if value == transparent else round(255 * value / most) for value in values]
        assert [pixel[0] for pixel in decoded(content)[0]] == expected


def test_the_transparent_color_of_16_bits_becomes_white() -> None:
    row = struct.pack(">6H", 1000, 2000, 3000, 65535, 0, 257)
    color = chunk(b"tRNS", struct.pack(">3H", 1000, 2000, 3000))
    content = png(2, [row], bits=16, kind=COLOR, before=color)
    assert decoded(content) == [[[255, 255, 255], [255, 0, 1]]]


def test_transparent_gray_is_turned_upright() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    for values in (np.array([[0, 7]], dtype=np.uint8), np.array([[0, 7 * 257]], dtype=np.uint16)):
        content = encode(Image.fromarray(values), transparency=0, exif=exif)
        assert decoded(content) == [[[255] * 3], [[7] * 3]]


def test_16_bits_with_alpha_are_composited_and_color_keeps_the_high_byte() -> None:
    values = [0, 255, 256, 32768, 65535]
    gray = png(5, [struct.pack(">10H", *(v for x in values for v in (x, 65535)))], bits=16, kind=GRAY_ALPHA)
    color = png(5, [struct.pack(">15H", *(v for v in values for _ in "rgb"))], bits=16, kind=COLOR)
    for content in (gray, color):
        levels = [pixel[0] for pixel in decoded(content)[0]]
        assert levels == [value >> 8 for value in values]
        # Less than one level from the exact value.
        assert all(abs(value / 257 - level) < 1 for value, level in zip(values, levels, strict=True))
    clear = png(1, [struct.pack(">4H", 1000, 2000, 3000, 0)], bits=16, kind=COLOR_ALPHA)
    assert decoded(clear) == [[[255, 255, 255]]]


def test_big_endian_16_bits_are_read_as_little_endian_ones() -> None:
    values = np.array([[0, 129, 257, 65535]])
    for order in ("<", ">"):
        image = Image.fromarray(values.astype(f"{order}u2"))
        assert [pixel[0] for pixel in decoded(encode(image, "TIFF"))[0]] == [0, 1, 1, 255]


def test_signed_values_are_read_if_they_are_not_negative() -> None:
    def tiff(values: list[int]) -> bytes:
        whole = bytearray(encode(Image.fromarray(np.array([values]).astype("<i2").view("<u2")), "TIFF"))
        (start,) = struct.unpack_from("<I", whole, 4)
        (count,) = struct.unpack_from("<H", whole, start)
        # Entry 339 says that the values are signed; it takes the place of the last entry.
        struct.pack_into("<HHII", whole, start + 2 + 12 * (count - 1), 339, 3, 1, 2)
        return bytes(whole)

    assert Image.open(io.BytesIO(tiff([0, 257]))).mode == "I"
    assert decoded(tiff([0, 257])) == [[[0] * 3, [1] * 3]]
    with pytest.raises(DataError, match=r"outside of \[0, 65535\](.|\n)*8 or 16 bits"):
        decoded(tiff([-1, 257]))


def test_lab_is_converted_to_rgb() -> None:
    pixels = np.array(decoded(encode(Image.new("LAB", (1, 1), (255, 128, 128)), "TIFF")))
    assert pixels.min() >= 254
    red = decoded(encode(Image.new("LAB", (1, 1), (136, 208, 195)), "TIFF"))[0][0]
    assert red[0] > 240
    assert max(red[1:]) < 30


def test_an_opened_file_is_converted_like_its_content() -> None:
    content = png(4, [b"\x1b"], bits=2, before=chunk(b"tRNS", b"\0\1"))
    image = Image.open(io.BytesIO(content))
    for _ in range(2):
        assert np.asarray(to_rgb(image)).tolist() == decoded(content)
