"""Remove metadata from image files, so that damaged metadata do not make pixels unreadable.

PIL refuses some files because of text, color profiles or camera data that no pixel depends on. The pixels and
everything that they depend on (palette, transparency, color transform) remain as they are.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator

PNG = b"\x89PNG\r\n\x1a\n"
JPEG = b"\xff\xd8"
EXIF = b"Exif\0\0"
START_OF_SCAN, COMMENT, ADOBE, APP1 = 0xDA, 0xFE, 0xEE, 0xE1
# Entries of a TIFF directory that no pixel depends on: descriptions, resolution, dates, XMP, IPTC, Photoshop,
# the color profile, EXIF, GPS.
TIFF_METADATA = frozenset(
    {
        269,
        270,
        271,
        272,
        282,
        283,
        285,
        296,
        305,
        306,
        315,
        316,
        700,
        33432,
        33723,
        34377,
        34665,
        34675,
        34853,
    }
)
WEBP_PIXELS = frozenset({b"VP8X", b"ALPH", b"VP8 ", b"VP8L", b"ANIM", b"ANMF"})
# Flags of a WebP file for alpha and animation; the others announce metadata.
WEBP_FLAGS = 0x12


def without_metadata(content: bytes) -> Iterator[bytes]:
    """The same image file without metadata: first with its orientation, then without it.

    Nothing is returned for other formats than PNG, JPEG, TIFF and WebP, and for files whose pixels cannot be
    told from metadata with certainty. Truncated pixels remain truncated.

    Args:
        content: the content of the file.

    Example:
        >>> import io
        >>> from PIL import Image
        >>> file = io.BytesIO()
        >>> Image.new("L", (3, 2)).save(file, "JPEG", comment=b"from my camera")
        >>> [b"camera" in smaller for smaller in without_metadata(file.getvalue())]
        [False, False]
    """
    for oriented in (True, False):
        if content.startswith(PNG):
            yield _png(content, oriented)
        elif content.startswith(JPEG):
            yield from _jpeg(content, oriented)
        elif content[:4] == b"RIFF" and content[8:12] == b"WEBP":
            yield from _webp(content, oriented)
        elif content[:4] in (b"II*\0", b"MM\0*") and oriented:
            yield from _tiff(content)


def _png(content: bytes, oriented: bool) -> bytes:
    """The chunks that are critical (their names start with a capital), and the transparent color."""
    kept, at = [PNG], len(PNG)
    while at + 12 <= len(content):
        length, name = struct.unpack_from(">I4s", content, at)
        chunk = content[at : at + 12 + length]
        intact = len(chunk) == 12 + length and chunk[-4:] == struct.pack(">I", zlib.crc32(chunk[4:-4]))
        if name[:1].isupper() or name == b"tRNS" or (name == b"eXIf" and oriented and intact):
            kept.append(chunk)
        at += 12 + length
    return b"".join([*kept, content[at:]])


def _jpeg(content: bytes, oriented: bool) -> Iterator[bytes]:
    """The segments without comments and application data, but with Adobe's color transform.

    The length of a segment says where the next one begins. If it is wrong, nothing is returned: the next
    marker that can be found may be that of a thumbnail.
    """
    kept, at = [JPEG], len(JPEG)
    while content[at : at + 1] == b"\xff" and at + 4 <= len(content):
        marker = content[at + 1]
        if marker == START_OF_SCAN:
            yield b"".join([*kept, content[at:]])
            return
        end = at + 2 + int.from_bytes(content[at + 2 : at + 4], "big")
        segment, payload = content[at:end], content[at + 4 : end]
        is_metadata = marker == COMMENT or 0xE0 <= marker <= 0xEF
        is_orientation = marker == APP1 and payload.startswith(EXIF)
        is_color = marker == ADOBE and payload.startswith(b"Adobe") and len(payload) >= 12
        if not is_metadata or is_color or (is_orientation and oriented):
            kept.append(segment)
        at = end


def _webp(content: bytes, oriented: bool) -> Iterator[bytes]:
    """The chunks of pixels; nothing if one of them is incomplete."""
    kept, at, exif = list[bytes](), 12, False
    while at + 8 <= len(content):
        name, length = struct.unpack_from("<4sI", content, at)
        chunk = content[at : at + 8 + length].ljust(8 + length + length % 2, b"\0")
        complete = at + 8 + length <= len(content)
        if name in WEBP_PIXELS and not complete:
            return
        if name in WEBP_PIXELS or (name == b"EXIF" and oriented and complete):
            kept.append(chunk)
            exif = exif or name == b"EXIF"
        at += len(chunk)
    if kept and kept[0].startswith(b"VP8X"):
        flags = kept[0][8] & WEBP_FLAGS | (0x08 if exif else 0)
        kept[0] = kept[0][:8] + bytes([flags]) + kept[0][9:]
    body = b"WEBP" + b"".join(kept)
    yield b"RIFF" + struct.pack("<I", len(body)) + body


def _tiff(content: bytes) -> Iterator[bytes]:
    """The file with a shorter first directory, in which orientation remains."""
    order = "<" if content.startswith(b"II") else ">"
    if len(content) < 8:
        return
    (start,) = struct.unpack_from(f"{order}I", content, 4)
    if start + 2 > len(content):
        return
    (count,) = struct.unpack_from(f"{order}H", content, start)
    end = start + 2 + 12 * count
    entries = [content[at : at + 12] for at in range(start + 2, end, 12)]
    if end + 4 > len(content):
        return
    kept = [entry for entry in entries if struct.unpack_from(f"{order}H", entry)[0] not in TIFF_METADATA]
    directory = struct.pack(f"{order}H", len(kept)) + b"".join(kept) + content[end : end + 4]
    yield content[:start] + directory + content[start + len(directory) :]
