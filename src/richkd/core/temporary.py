"""Temporary files: their names tell whose they are, so that those of ended processes can be removed.

A name is ``.NAME.PLACE-PID-START-NUMBER.tmp``: the name that the file will have, a digest of the host, and
the process. Nothing else is ever removed.
"""

from __future__ import annotations

import contextlib
import itertools
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from richkd.core.process import is_running, this_process

PATTERN = re.compile(r"\..+\.([0-9a-f]{8})-(\d{1,10})-(\d{1,20})-\d{1,20}\.tmp")
# Whether a process of another host runs cannot be found out, but no file is written for so long.
SECONDS_ELSEWHERE = 24 * 60 * 60
# The rest of a name needs up to 60 of the 255 bytes that file systems allow; a character has up to 4.
LONGEST_NAME = 40

_numbers = itertools.count()


def temporary_path(path: Path) -> Path:
    """A path in the same folder for the content of ``path`` until it is complete; every call gives another.

    Example:
        >>> path = temporary_path(Path("runs/last.ckpt"))
        >>> path.parent.as_posix(), path.name.startswith(".last.ckpt."), bool(PATTERN.fullmatch(path.name))
        ('runs', True, True)
    """
    me = this_process()
    owner = f"{me.place}-{me.pid}-{me.start}-{next(_numbers)}"
    return path.with_name(f".{path.name[:LONGEST_NAME]}.{owner}.tmp")


@contextmanager
def temporary_file(path: Path) -> Iterator[Path]:
    """Context with a `temporary_path`; a file that is still there at the end is removed.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with temporary_file(Path(folder) / "last.ckpt") as temporary:
        ...         temporary.touch()
        ...     list(Path(folder).iterdir())
        []
    """
    temporary = temporary_path(path)
    try:
        yield temporary
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


@contextmanager
def temporary_folder(parent: Path) -> Iterator[Path]:
    """Context with a new folder in ``parent`` (which is created), removed with its content at the end.

    Unlike a folder of `tempfile`, it is found by `remove_abandoned` after a kill.

    Raises:
        OSError: the folder cannot be created.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as parent:
        ...     with temporary_folder(Path(parent)) as scratch:
        ...         inside = scratch.parent == Path(parent), scratch.is_dir()
        ...     inside, scratch.exists()
        ((True, True), False)
    """
    folder = temporary_path(parent / "scratch")
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def remove_abandoned(folder: Path) -> list[Path]:
    """Remove temporary files and folders of `temporary_path` in a folder whose process has ended.

    The process of another host counts as ended if the file did not change for a day. Files with other names
    and links are never removed, subfolders are not searched, and errors are ignored: leftovers cost space but
    do no harm.

    Returns:
        The paths that were removed.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as name:
        ...     folder, place = Path(name), this_process().place
        ...     (folder / f".last.ckpt.{place}-4000000000-1-0.tmp").touch()
        ...     (folder / ".notes.tmp").touch()
        ...     temporary_path(folder / "last.ckpt").touch()
        ...     len(remove_abandoned(folder)), len(list(folder.iterdir()))
        (1, 2)
    """
    try:
        paths = [path for path in folder.iterdir() if PATTERN.fullmatch(path.name)]
    except OSError:
        return []
    removed = []
    for path in paths:
        with contextlib.suppress(OSError):
            if not path.is_symlink() and _is_abandoned(path):
                _remove(path)
                removed.append(path)
    return removed


def _is_abandoned(path: Path) -> bool:
    named = PATTERN.fullmatch(path.name)
    assert named is not None
    place, pid, start = named[1], int(named[2]), int(named[3])
    if place == this_process().place:
        return not is_running(pid, start)
    return time.time() - path.stat().st_mtime > SECONDS_ELSEWHERE


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
