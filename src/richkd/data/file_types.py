"""Image files by their endings and first bytes, and formats for which PIL needs another package."""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from richkd.core.errors import DataError


@dataclass(frozen=True)
class Plugin:
    """A package with which PIL reads a format.

    Attributes:
        format: name of the format, for messages.
        suffixes: endings of its files; PIL knows the first one if it can read the format.
        package: name of the package for pip.
        module: name of its module.
        register: function of the module that adds the format to PIL; empty if the import does.
        brands: names of the format in ISO media files (bytes 8 to 12 of the file).
        starts: first bytes of other files of the format.
    """

    format: str
    suffixes: tuple[str, ...]
    package: str
    module: str
    register: str = ""
    brands: frozenset[bytes] = frozenset()
    starts: tuple[bytes, ...] = ()

    @property
    def fix(self) -> str:
        """What a user can do whose PIL cannot read the format."""
        return (
            f"pip install {self.package} (it is found without further settings), or convert to JPEG or PNG."
        )


PLUGINS = (
    Plugin(
        "HEIC",
        (".heic", ".heif", ".hif"),
        "pillow-heif",
        "pillow_heif",
        "register_heif_opener",
        brands=frozenset(
            {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1"}
        ),
    ),
    Plugin(
        "JPEG XL",
        (".jxl",),
        "pillow-jxl-plugin",
        "pillow_jxl",
        starts=(b"\xff\x0a", b"\0\0\0\x0cJXL \r\n\x87\n"),
    ),
    # Pillow reads AVIF itself from version 11.3, if it was built with it.
    Plugin("AVIF", (".avif",), "pillow-avif-plugin", "pillow_avif", brands=frozenset({b"avif", b"avis"})),
)
IMAGE_SUFFIXES = frozenset(
    {".bmp", ".dib", ".gif", ".ico", ".j2k", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg", ".pbm"}
    | {".pgm", ".png", ".pnm", ".ppm", ".qoi", ".tga", ".tif", ".tiff", ".webp"}
    | {suffix for plugin in PLUGINS for suffix in plugin.suffixes}
)


def printable(path: Path | str) -> str:
    """A path with ``\\xff`` in the place of bytes that are not valid UTF-8, which cannot be printed.

    Example:
        >>> printable(os.fsdecode(b"caf\\xe9.png"))
        'caf\\\\xe9.png'
    """
    return os.fsencode(path).decode("utf-8", errors="backslashreplace")


def plugin_of(content: bytes) -> Plugin | None:
    """The plugin that an image file needs, according to its first bytes; None for most formats.

    Example:
        >>> plugin_of(b"\\0\\0\\0\\x18ftypheic\\0\\0\\0\\0").package, plugin_of(b"BM")
        ('pillow-heif', None)
    """
    brand = content[8:12] if content[4:8] == b"ftyp" else None
    for plugin in PLUGINS:
        if brand in plugin.brands or content.startswith(plugin.starts):
            return plugin
    return None


def can_read(plugin: Plugin) -> bool:
    """Whether PIL reads a format; its package is imported if it is needed and installed.

    Example:
        >>> can_read(Plugin("PNG", (".png",), "no-such-package", "no_such_module"))
        True
        >>> can_read(Plugin("XYZ", (".xyz",), "no-such-package", "no_such_module"))
        False
    """
    if plugin.suffixes[0] in Image.registered_extensions():
        return True
    try:
        module = importlib.import_module(plugin.module)
        if plugin.register:
            getattr(module, plugin.register)()
    except Exception:  # a package that is installed but broken raises errors of many types
        return False
    return plugin.suffixes[0] in Image.registered_extensions()


def refuse_formats(files: Iterable[Path], where: str) -> None:
    """Check that PIL reads the formats of image files, according to their endings.

    Args:
        files: the image files.
        where: what the files belong to, for the error message.

    Raises:
        DataError: a format needs a package that is not installed; the message has the number of its files.

    Example:
        >>> refuse_formats([Path("ant.png")], "zoo")
    """
    by_suffix: dict[str, list[Path]] = {}
    for file in files:
        by_suffix.setdefault(file.suffix.lower(), []).append(file)
    for plugin in PLUGINS:
        members = [file for suffix in plugin.suffixes for file in by_suffix.get(suffix, ())]
        if members and not can_read(plugin):
            raise DataError(
                f"The images of {where} must have formats that can be read",
                got=f"{len(members)} {plugin.format} files, such as {printable(members[0])}",
                fix=plugin.fix,
            )
