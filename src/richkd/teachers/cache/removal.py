"""Remove a teacher cache that no process uses."""

from __future__ import annotations

import shutil
from pathlib import Path

from richkd.core.errors import CacheError, nearest
from richkd.core.lock import FileLock, release_held
from richkd.core.lock_owners import Locked, in_use
from richkd.core.temporary import temporary_path
from richkd.teachers.cache.manifest import list_caches
from richkd.teachers.cache.store import lock_of


def remove_cache(root: str | Path, name: str) -> Path:
    """Delete a cache.

    Args:
        root: folder of the teacher cache.
        name: name of the cache, as `list_caches` and ``richkd cache ls`` return it.

    Returns:
        The path of the deleted folder.

    Raises:
        CacheError: there is no cache with this name (the message has similar names), another process uses it,
            or it cannot be removed.

    Example:
        >>> import tempfile
        >>> from richkd.teachers.cache.manifest import Manifest
        >>> from richkd.teachers.cache.row_format import RowFormat
        >>> from richkd.teachers.cache.store import OutputCache
        >>> with tempfile.TemporaryDirectory() as root:
        ...     cache = OutputCache(root, Manifest("net-train", {}, 9, 1, RowFormat(2, 0)))
        ...     remove_cache(root, cache.folder.name) == cache.folder, list_caches(root)
        (True, [])
    """
    root = Path(root)
    known = [folder.name for folder in list_caches(root)]
    if name not in known:
        hint = f"`richkd cache ls {root}` lists all."
        raise CacheError(f"There is no cache '{name}' in {root}", fix=nearest(name, known, hint))
    folder, lock = root / name, FileLock(lock_of(root / name))
    # Who removes a cache knows that this process itself has it open.
    release_held(lock.path)
    try:
        with lock:
            # Renamed first: a process that opens the cache sees all of it or nothing.
            shutil.rmtree(folder.rename(temporary_path(folder)))
    except Locked as held:
        raise in_use(held, lock.path, CacheError, f"The cache {folder} must not be in use") from None
    except OSError as error:
        raise CacheError(
            f"The cache {folder} could not be removed",
            got=error.strerror or str(error),
            fix="check the permissions of the folder.",
        ) from error
    return folder
