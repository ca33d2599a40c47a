"""Paths that begin with the home folder of a user."""

from __future__ import annotations

import os
from pathlib import Path


def expanded(path: str | Path) -> Path:
    """A path with the home folder in the place of ``~``; the same path if there is no such user.

    Example:
        >>> expanded("~no-such-user/photos").as_posix()
        '~no-such-user/photos'
    """
    return Path(os.path.expanduser(path))  # noqa: PTH111 - Path.expanduser raises for unknown users
