"""Read regular files only: opening a pipe waits for ever, and a device such as /dev/zero never ends."""

from __future__ import annotations

import errno
import os
import stat
from io import BufferedReader
from pathlib import Path

from richkd.core.presence import is_dir

# What else than a regular file a path can be, for messages.
KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def kind_of(path: str | Path) -> str | None:
    """What a path is, if it exists and is no regular file; the target counts for a symbolic link.

    Example:
        >>> kind_of("/"), kind_of(__file__), kind_of("no-such-file")
        ('a folder', None, None)
    """
    try:
        return KINDS.get(stat.S_IFMT(os.stat(path).st_mode))  # noqa: PTH116 - paths may be texts
    except (OSError, ValueError):
        return None


def check_regular(path: str | Path) -> os.stat_result:
    """Check that a path is a regular file, without opening it.

    Raises:
        OSError: it does not exist, or is a folder, pipe, socket or device.
        ValueError: the path contains a null character.

    Example:
        >>> try:
        ...     check_regular("/")
        ... except OSError as error:
        ...     error.strerror
        'a folder, no regular file'
    """
    status = os.stat(path)  # noqa: PTH116
    if not stat.S_ISREG(status.st_mode):
        kind = KINDS.get(stat.S_IFMT(status.st_mode), "something else")
        raise OSError(errno.EINVAL, f"{kind}, no regular file", str(path))
    return status


def open_regular(path: str | Path) -> BufferedReader:
    """Open a regular file for reading.

    Raises:
        OSError: see `check_regular`, or the file may not be read.

    Example:
        >>> with open_regular(__file__) as file:
        ...     len(file.read(3))
        3
    """
    check_regular(path)
    # The path may become a pipe in between; O_NONBLOCK then opens it without waiting.
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "no regular file", str(path))
    return os.fdopen(descriptor, "rb")


def read_regular(path: str | Path, limit: int | None = None) -> bytes:
    """Read a regular file of at most ``limit`` bytes.

    Raises:
        OSError: see `open_regular`, or the file is larger.

    Example:
        >>> try:
        ...     read_regular(__file__, limit=10)
        ... except OSError as error:
        ...     error.strerror.endswith("more than 10")
        True
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if limit is not None and size > limit:
            raise OSError(errno.EFBIG, f"{size:,} bytes, more than {limit:,}", str(path))
        return file.read()


def special_in(folder: Path) -> Path | None:
    """The first pipe, socket or device directly in a folder whose files a library is going to open.

    Example:
        >>> special_in(Path(__file__).parent) is None
        True
    """
    files = sorted(folder.iterdir()) if is_dir(folder) else []
    return next((file for file in files if kind_of(file) not in (None, "a folder")), None)
