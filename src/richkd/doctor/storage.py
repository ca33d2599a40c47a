"""Free space of the folders that commands write to."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from richkd.core.presence import is_dir, nearest_existing


def storage(folder: Path) -> dict[str, Any]:
    """A folder with its free space, and whether files can be written there.

    For a folder that does not exist yet, both describe its nearest parent that exists.

    Example:
        >>> storage(Path("no/such/folder"))["exists"]
        False
    """
    here = nearest_existing(folder)
    return {
        "folder": str(folder),
        "exists": is_dir(folder),
        "free": free_bytes(here),
        "writable": os.access(here, os.W_OK | os.X_OK) and is_dir(here),
    }


def free_bytes(folder: Path) -> int | None:
    """Free bytes of the disk of a folder; None if the system does not say.

    Example:
        >>> free_bytes(Path("no-such-folder")) is None
        True
    """
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return None
