"""Open an image file and load its pixels, or say why that is impossible."""

from __future__ import annotations

import io
import os
import re
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from richkd.core.errors import ConfigError, ImageError, RichKDError
from richkd.core.regular_files import read_regular
from richkd.data.file_types import can_read, plugin_of, printable
from richkd.data.metadata import without_metadata
from richkd.data.rgb import scale_transparent_color

REPAIR = "replace the file with a readable image, or remove the file from the data set."
RESTORE = "restore the file, or remove the file from the data set."
# Environment variable with the largest number of pixels of an image.
LIMIT = "RICHKD_MAX_PIXELS"
# Largest file of an image: this size, or so many bytes for each pixel of the limit.
BYTES, BYTES_PER_PIXEL = 1 << 30, 8
# Formats that PIL reads by running another program.
PROGRAMS = frozenset({"EPS"})


def load_picture(data: bytes | str | Path, *, name: str, short: int | None = None) -> Image.Image:
    """Open an image file with PIL and load its pixels; metadata that cannot be read are ignored.

    Args:
        data: content or path of the file.
        name: key of the image, for error messages.
        short: see `richkd.data.images.decode_rgb`.

    Raises:
        ImageError: the file is missing, truncated or not an image, or has more pixels than `pixel_limit`.

    Example:
        >>> file = io.BytesIO()
        >>> Image.new("L", (3, 2)).save(file, "PNG")
        >>> load_picture(file.getvalue(), name="gray.png").mode
        'L'
    """
    content = data if isinstance(data, bytes) else read_file(data, name)
    plugin = plugin_of(content)
    lacking = plugin if plugin is not None and not can_read(plugin) else None
    try:
        return _load(content, name, short)
    except RichKDError:
        raise
    # For damaged files, PIL's readers raise errors of many types, such as OSError, struct.error, IndexError.
    except Exception as error:
        failure = error
    if lacking is not None:
        got = f"{lacking.format} format, which PIL cannot read without {lacking.package}"
        raise ImageError(f"Image {name} must be readable", got=got, fix=lacking.fix)
    for smaller in without_metadata(content):
        try:
            return _load(smaller, name, short)
        except RichKDError:
            raise
        except Exception as error:
            failure = error
    raise ImageError(f"Image {name} must be readable", got=_reason(failure, content), fix=REPAIR) from failure


def pixel_limit() -> int | None:
    """Largest number of pixels of an image: that of the environment variable, else PIL's; None for no limit.

    PIL's limit protects against files that are small but fill the memory (decompression bombs). It is
    ``PIL.Image.MAX_IMAGE_PIXELS``, by default 89 megapixels, and is replaced if the user sets the variable.

    Raises:
        ConfigError: the variable is not a positive integer.

    Example:
        >>> pixel_limit() == Image.MAX_IMAGE_PIXELS
        True
    """
    text = os.environ.get(LIMIT)
    if text is None:
        return Image.MAX_IMAGE_PIXELS
    if not (text.isascii() and text.isdigit() and len(text) < 20 and int(text)):
        raise ConfigError(f"{LIMIT} must be a number of pixels", got=repr(text), fix="set it to 200000000.")
    # PIL refuses twice its own limit before the size of an image is known to us.
    Image.MAX_IMAGE_PIXELS = int(text)
    return Image.MAX_IMAGE_PIXELS


def _load(content: bytes, name: str, short: int | None) -> Image.Image:
    limit = pixel_limit()
    try:
        image = Image.open(io.BytesIO(content))
    except Image.DecompressionBombError as error:
        # PIL raises above twice its limit, where the message has the number of pixels, and warns before.
        (count,) = re.findall(r"\d+", str(error))[:1]
        raise _too_large(name, int(count), limit) from error
    if limit is not None and image.width * image.height > limit:
        raise _too_large(name, image.width * image.height, limit, f"{image.width} × {image.height} = ")
    if image.format in PROGRAMS:
        raise ImageError(
            f"Image {name} must be of a format that PIL reads itself", got=str(image.format), fix=REPAIR
        )
    if short is not None:
        image.draft(None, (short, short))
    scale_transparent_color(image)
    image.load()
    return image


def _too_large(name: str, count: int, limit: int | None, sides: str = "") -> ImageError:
    return ImageError(
        f"Image {name} must have at most {limit:,} pixels",
        got=f"{sides}{count:,} pixels, more than {limit:,}",
        fix=f"reduce the image, or set the environment variable {LIMIT}={count} if the file can be trusted.",
    )


def _reason(error: Exception, content: bytes) -> str:
    if not content:
        return "an empty file"
    if isinstance(error, UnidentifiedImageError):
        return f"{len(content):,} bytes that are no image of a known format"
    return f"{type(error).__name__}: {error}".replace("\n", " ")


def read_file(path: str | Path, name: str) -> bytes:
    """Read a file of an image.

    Args:
        path: the file.
        name: key of the image, for error messages.

    Raises:
        ImageError: the file is gone, is no regular file, or may not be read.

    Example:
        >>> len(read_file(Path(__file__), "x")) > 0
        True
    """
    rule, pixels = f"Image {name} must be readable", pixel_limit()
    try:
        return read_regular(path, None if pixels is None else max(BYTES, BYTES_PER_PIXEL * pixels))
    except FileNotFoundError as error:
        raise ImageError(rule, got=f"no such file, or no longer: {printable(path)}", fix=RESTORE) from error
    except (OSError, ValueError) as error:  # ValueError: a null character in the path
        got = f"{getattr(error, 'strerror', None) or error}: {printable(path)}"
        raise ImageError(rule, got=got, fix=RESTORE) from error
