"""Image files that PIL's writers do not write: PNG and JPEG files from their parts."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Sequence

from PIL import Image

GRAY, COLOR, GRAY_ALPHA, COLOR_ALPHA = 0, 2, 4, 6


def encode(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def chunk(name: bytes, payload: bytes, *, wrong_sum: bool = False) -> bytes:
    """A chunk of a PNG file; its checksum may be wrong."""
    checksum = zlib.crc32(name + payload) ^ wrong_sum
    return struct.pack(">I", len(payload)) + name + payload + struct.pack(">I", checksum)


def png(
    width: int,
    rows: Sequence[bytes],
    *,
    bits: int = 8,
    kind: int = GRAY,
    before: bytes = b"",
    after: bytes = b"",
) -> bytes:
    """A PNG file with chunks before and after its pixels."""
    header = struct.pack(">IIBBBBB", width, len(rows), bits, kind, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + row for row in rows))
    return b"".join(
        [
            b"\x89PNG\r\n\x1a\n",
            chunk(b"IHDR", header),
            before,
            chunk(b"IDAT", pixels),
            after,
            chunk(b"IEND", b""),
        ]
    )


def segment(marker: int, payload: bytes) -> bytes:
    """A segment of a JPEG file."""
    return bytes([0xFF, marker]) + struct.pack(">H", len(payload) + 2) + payload
