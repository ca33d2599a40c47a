"""Whether paths exist, also where the system does not let them be looked at.

`Path.exists` and its siblings raise an error in a folder that may not be searched, and for a name that is too
long. A path that a user gives must end in a message instead.
"""

from __future__ import annotations

import os
from pathlib import Path


def exists(path: str | Path) -> bool:
    """Whether a path exists; not if this cannot be found out.

    Example:
        >>> exists(__file__), exists("x" * 1000)
        (True, False)
    """
    return os.path.exists(path)  # noqa: PTH110


def is_file(path: str | Path) -> bool:
    """Whether a path is a regular file; not if this cannot be found out.

    Example:
        >>> is_file(__file__), is_file("x" * 1000)
        (True, False)
    """
    return os.path.isfile(path)  # noqa: PTH113


def is_dir(path: str | Path) -> bool:
    """Whether a path is a folder; not if this cannot be found out.

    Example:
        >>> is_dir("/"), is_dir("x" * 1000)
        (True, False)
    """
    return os.path.isdir(path)  # noqa: PTH112


def resolved(path: str | Path) -> Path:
    """The absolute path without links.

    `Path.resolve` raises an error for a link that leads to itself. Here such a link stays, so that whoever
    opens the path names it.

    Example:
        >>> resolved("runs/../photos") == Path.cwd() / "photos"
        True
    """
    return Path(os.path.realpath(path))


def folder_name(path: str | Path) -> str:
    """The name of a file or folder, also of ``.`` and of paths that end with ``..``.

    Example:
        >>> folder_name("data/photos"), folder_name("data/photos/..") == folder_name(Path("data").absolute())
        ('photos', True)
        >>> folder_name(".") == Path.cwd().name
        True
    """
    name = Path(path).name
    return name if name not in ("", "..") else resolved(path).name


def nearest_existing(path: str | Path) -> Path:
    """The absolute path without links, or its nearest parent that exists.

    Example:
        >>> nearest_existing("no/such/folder") == Path.cwd()
        True
    """
    path = resolved(path)
    # Path.exists would raise an error for a folder that may not be searched.
    return next((one for one in (path, *path.parents) if os.access(one, os.F_OK)), path)


def stat_error(path: str | Path) -> str | None:
    """Why the system does not let a path be looked at, for messages; None if it exists or does not.

    Example:
        >>> stat_error(__file__), stat_error("no-such-file"), stat_error("x" * 1000)
        (None, None, 'File name too long')
    """
    try:
        os.stat(path)  # noqa: PTH116 - paths may be texts
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        return error.strerror or str(error)
    except ValueError:  # a null character, which no name has
        return None
    return None
