"""Locks on folders that several processes could write to.

A lock is a file. The operating system's lock on the open file (``flock``) decides: the kernel drops it when
the process ends, however it ends. The content names the owners (`richkd.core.lock_owners`). It decides in two
cases:

- There is no ``flock`` (Windows, some network file systems). An owner of this host counts as long as its
  process runs.
- An owner is on another host, where ``flock`` may not reach it. Owners touch the file every few seconds, so
  an owner counts until the file was not touched for two minutes.
"""

from __future__ import annotations

import contextlib
import errno
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

from richkd.core.lock_owners import Locked, line_of, read_owners, still_holds
from richkd.core.process import this_process

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

SECONDS_BETWEEN_TOUCHES = 15.0
# A holder that is just opening or closing its lock is waited for.
ATTEMPTS, PAUSE = 20, 0.05
# A process that reads and writes a lock file for so long was killed. On a busy machine it may take seconds.
SECONDS_OF_CLAIM = 10.0
NO_FLOCK = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL, errno.EBADF)
BINARY = getattr(os, "O_BINARY", 0)


class FileLock:
    """A lock on a file that is held until `release` or the end of the process.

    Args:
        path: the file. An exclusive lock removes it at the end; a shared one leaves it for the others.
        shared: allow other shared locks on the same file.

    Attributes:
        taken_over: whether an owner had ended without giving the lock back.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "richkd.lock"
        ...     with FileLock(path):
        ...         try:
        ...             FileLock(path).acquire()
        ...         except Locked as held:
        ...             print(held.owners == [this_process()])
        ...     path.exists()
        True
        False
    """

    def __init__(self, path: Path, *, shared: bool = False) -> None:
        self.path, self.shared, self.taken_over = path.absolute(), shared, False
        self._descriptor: int | None = None

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def acquire(self) -> None:
        """Take the lock; a lock whose owner has ended is taken over.

        Raises:
            Locked: others hold it.
            OSError: the file cannot be created.
        """
        for attempt in range(ATTEMPTS):
            if attempt:
                time.sleep(PAUSE)
            descriptor = _open(self.path)
            taken = False
            try:
                taken = self._take(descriptor)
            finally:
                if not taken:
                    os.close(descriptor)
            if taken:
                self._descriptor = descriptor
                _held.add(self)
                _keep_touching()
                return
        raise Locked(*read_owners(self.path))

    def release(self) -> None:
        """Give the lock back; does nothing if it is not held."""
        descriptor, self._descriptor = self._descriptor, None
        _held.discard(self)
        if descriptor is None:
            return
        if fcntl is None:
            os.close(descriptor)  # Windows removes no open file
        # Removed before it is unlocked, so that nobody can hold the file and not be seen.
        if not self.shared:
            with contextlib.suppress(OSError):
                self.path.unlink(missing_ok=True)
        if fcntl is not None:
            os.close(descriptor)

    def forget(self) -> None:
        """Close the file in a forked child, which must not keep its parent's lock after the parent's end."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)

    def _take(self, descriptor: int) -> bool:
        """Lock the open file and write this owner into it; False if somebody else has it."""
        alone = _flock(descriptor, shared=False)
        if alone is None:
            with _claim(self.path) as claimed:
                return claimed and self._write(descriptor, alone=True, flock=False)
        if not alone and not (self.shared and _flock(descriptor, shared=True)):
            return False
        # Who held the file before may have removed it, and somebody else may have the new one.
        if not _is_at(descriptor, self.path):
            return False
        self._write(descriptor, alone=alone, flock=True)
        return not self.shared or bool(_flock(descriptor, shared=True))

    def _write(self, descriptor: int, *, alone: bool, flock: bool) -> bool:
        owners, age = read_owners(descriptor)
        others = [owner for owner in owners if still_holds(owner, age, flock=flock)]
        if others and not self.shared:
            raise Locked(others, age)
        self.taken_over = bool(owners) and not others
        lines = b"".join(map(line_of, others if alone else []))
        try:
            if alone:
                os.ftruncate(descriptor, 0)
            os.lseek(descriptor, 0, os.SEEK_END)
            os.write(descriptor, lines + line_of(this_process()))
        except OSError:
            # With flock, the content only explains; the disk may be full, or the file another user's.
            if not flock:
                raise
        return True


def share(path: Path) -> FileLock | None:
    """Take a shared lock; None where no lock file can be written, as in a cache that is only read.

    Raises:
        Locked: somebody holds an exclusive lock.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     locks = [share(Path(folder) / "cache.lock") for reader in range(2)]
        ...     for lock in locks:
        ...         lock.release()
    """
    lock = FileLock(path, shared=True)
    try:
        lock.acquire()
    except OSError:
        return None
    return lock


def release_held(path: Path) -> None:
    """Give back all locks that this process holds on a file.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     lock = share(Path(folder) / "cache.lock")
        ...     release_held(Path(folder) / "cache.lock")
        ...     with FileLock(Path(folder) / "cache.lock") as alone:
        ...         alone.shared
        False
    """
    for lock in list(_held):
        if lock.path == path.absolute():
            lock.release()


def _open(path: Path) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | BINARY, 0o666)
    except OSError:
        # Another user's file can be locked, too.
        with contextlib.suppress(OSError):
            return os.open(path, os.O_RDONLY | BINARY)
        raise


def _flock(descriptor: int, *, shared: bool) -> bool | None:
    """Whether the system locked the open file for this process; None if it has no such locks."""
    if fcntl is None:
        return None
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in NO_FLOCK:
            return None
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            return False
        raise
    return True


@contextmanager
def _claim(path: Path) -> Iterator[bool]:
    """Whether this process may now read and write the lock file, where the system has no locks."""
    claim = path.with_name(f"{path.name}.claim")
    try:
        os.close(os.open(claim, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    except FileExistsError:
        with contextlib.suppress(OSError):
            # The file exists for milliseconds, unless its process was killed.
            if time.time() - claim.stat().st_mtime > SECONDS_OF_CLAIM:
                claim.unlink()
        yield False
        return
    try:
        yield True
    finally:
        with contextlib.suppress(OSError):
            claim.unlink()


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except OSError:
        return False


_held: set[FileLock] = set()
_toucher: threading.Thread | None = None


def _keep_touching() -> None:
    """Start the thread that touches the files of held locks, if it does not run in this process."""
    global _toucher
    if _toucher is None or not _toucher.is_alive():
        _toucher = threading.Thread(target=_touch, name="locks", daemon=True)
        _toucher.start()


def _touch() -> None:
    while True:
        time.sleep(SECONDS_BETWEEN_TOUCHES)
        for lock in list(_held):
            with contextlib.suppress(OSError):
                os.utime(lock.path)


def _forget() -> None:
    for lock in list(_held):
        lock.forget()
    _held.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
