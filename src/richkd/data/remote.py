"""Files of the Hugging Face hub that are read over the network, and not stored on disk."""

from __future__ import annotations

import os
from pathlib import Path
from typing import IO, Any, cast

from richkd.core.regular_files import open_regular

# Such files are named as in the library `datasets`: hf://datasets/OWNER/NAME@REVISION/FILE.
SCHEME = "hf://"


def is_remote(file: str) -> bool:
    """Whether a file is on the hub.

    Example:
        >>> is_remote("hf://datasets/jane/birds@main/train.parquet"), is_remote("birds/train.parquet")
        (True, False)
    """
    return file.startswith(SCHEME)


def open_file(file: str) -> IO[bytes]:
    """Open a file of this machine or of the hub.

    Raises:
        OSError: it cannot be opened, or the hub cannot be reached.

    Example:
        >>> with open_file(__file__) as file:
        ...     len(file.read(3))
        3
    """
    if not is_remote(file):
        return open_regular(file)
    from huggingface_hub import HfFileSystem

    try:
        return cast(IO[bytes], cast(Any, HfFileSystem()).open(file, "rb"))
    except OSError:
        raise
    # Errors of the network are those of an HTTP library.
    except Exception as error:
        raise OSError(str(error)) from error


def version_of(file: str) -> tuple[int, ...]:
    """Times of modification and change in nanoseconds, size, and inode, by which a replaced file is noticed.

    They are zeros for a file of the hub, whose revision is part of its name.

    Raises:
        OSError: the file does not exist.

    Example:
        >>> version_of(__file__) == version_of(__file__), version_of("hf://datasets/jane/birds@1a2b/x.parquet")
        (True, (0, 0, 0, 0))
    """
    if is_remote(file):
        return 0, 0, 0, 0
    # Path is slower than all that is done with it here.
    status = os.stat(file)  # noqa: PTH116
    return status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino


def name_of(file: str | Path) -> str:
    """The name by which a file is found from every folder.

    Example:
        >>> name_of("hf://datasets/jane/birds@main/train.parquet")
        'hf://datasets/jane/birds@main/train.parquet'
    """
    return str(file) if is_remote(str(file)) else str(Path(file).absolute())
