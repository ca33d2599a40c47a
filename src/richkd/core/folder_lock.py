"""The lock of a folder that has one writer, such as a run folder or the folder of a page."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from richkd.core.errors import CheckpointError
from richkd.core.lock import FileLock
from richkd.core.lock_owners import Locked, in_use
from richkd.core.presence import exists

LOCK = "richkd.lock"


@contextmanager
def folder_lock(folder: Path, what: str) -> Iterator[FileLock]:
    """Context that holds the lock of a folder with one writer; the folder is created.

    At the end, folders that were created and are empty are removed.

    Args:
        folder: the folder.
        what: the folder as the subject of a message.

    Raises:
        CheckpointError: another process holds it (the message names the process), or it cannot be written.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as parent:
        ...     with folder_lock(Path(parent) / "runs" / "x", "--out runs/x") as lock:
        ...         lock.path.name, lock.path.exists()
        ...     list(Path(parent).iterdir())
        ('richkd.lock', True)
        []
    """
    folder = folder.absolute()
    missing = [path for path in (folder, *folder.parents) if not exists(path)]
    lock = FileLock(folder / LOCK)
    try:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            lock.acquire()
        except Locked as held:
            raise in_use(held, lock.path, CheckpointError, f"{what} must have one writer") from None
        except OSError as error:
            raise CheckpointError(
                f"{what} cannot be written", got=error.strerror or str(error), fix="choose another --out."
            ) from error
        yield lock
    finally:
        lock.release()
        for path in missing:
            with contextlib.suppress(OSError):
                path.rmdir()
