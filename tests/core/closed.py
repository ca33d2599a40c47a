"""A folder that may not be searched, also for tests that root runs, who may search every folder."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

# More bytes than a name may have.
LONG = "x" * 300


def close(monkeypatch: pytest.MonkeyPatch, folder: Path) -> Path:
    """Let the system refuse to look at what is in a folder, as with mode 000; returns the folder."""
    stat, access = os.stat, os.access
    closed = os.path.abspath(folder)  # noqa: PTH100

    def is_below(path: Any) -> bool:
        if isinstance(path, int):
            return False
        place = os.path.abspath(os.fsdecode(path))  # noqa: PTH100
        return place.startswith(closed + os.sep)

    def refuse_to_look(path: Any, *args: Any, **options: Any) -> os.stat_result:
        if is_below(path):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return stat(path, *args, **options)

    def no_access(path: Any, mode: int, **options: Any) -> bool:
        # That the folder itself exists can be seen.
        is_folder = os.path.abspath(os.fsdecode(path)) == closed  # noqa: PTH100
        return not is_below(path) and access(path, mode, **options) and (mode == os.F_OK or not is_folder)

    monkeypatch.setattr(os, "stat", refuse_to_look)
    monkeypatch.setattr(os, "access", no_access)
    return folder
