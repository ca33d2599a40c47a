"""Which process owns a file: host, process number and start time, and whether this process still runs."""

from __future__ import annotations

import hashlib
import os
import socket
import sys
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path


@dataclass(frozen=True)
class Process:
    """A process on some machine.

    The number of a process is used again after it ended, so the start time belongs to its identity.

    Attributes:
        host: name of the machine.
        space: the namespace of process numbers, which each container has for itself; 0 if there are none.
        pid: number of the process.
        start: start time in a unit of the system, only to be compared; 0 if it is not known.

    Example:
        >>> Process("desk", 0, 4711, 99).describe()
        'process 4711 on desk'
    """

    host: str
    space: int
    pid: int
    start: int

    @property
    def place(self) -> str:
        """Eight hexadecimal digits that name host and namespace; part of names of temporary files."""
        return hashlib.sha256(f"{self.host} {self.space}".encode()).hexdigest()[:8]

    def describe(self) -> str:
        """Number and host, for messages."""
        return f"process {self.pid} on {self.host}"


def this_process() -> Process:
    """The process that calls this function.

    Example:
        >>> this_process().pid == os.getpid()
        True
    """
    # A forked child must not have its parent's number, so the number is no part of the cached result.
    return Process(*_here(), os.getpid(), _start_of(os.getpid()) or 0)


def is_running(pid: int, start: int) -> bool:
    """Whether a process of this machine runs: its number exists, and has the same start time if it is known.

    Args:
        pid: number of the process.
        start: its start time as `this_process` returns it; 0 if it is not known.

    Example:
        >>> me = this_process()
        >>> is_running(me.pid, me.start), is_running(me.pid, me.start + 1)
        (True, False)
    """
    now = _start_of(pid)
    return now is not None and (start == 0 or now in (0, start))


@lru_cache(maxsize=1)
def _here() -> tuple[str, int]:
    try:
        space = Path("/proc/self/ns/pid").stat().st_ino
    except OSError:
        space = 0
    return socket.gethostname(), space


def _start_of(pid: int) -> int | None:
    """Start time of a process; None if it does not run, 0 if it runs and its start time is not known."""
    if sys.platform == "linux":
        try:
            # The name of the program is in parentheses and may contain anything.
            fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
        except OSError:
            return 0 if _exists(pid) else None
        # A zombie has closed its files; only its exit status remains.
        return None if fields[0] in (b"Z", b"X") else int(fields[19])
    return _start_by_psutil(pid)


def _exists(pid: int) -> bool:
    """Whether the number belongs to a process, which /proc may hide if it is another user's."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def _start_by_psutil(pid: int) -> int | None:
    try:
        import psutil
    except ImportError:
        # Without psutil, a process that cannot be asked for is taken for a running one.
        return 0
    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else round(100 * process.create_time())
    except psutil.NoSuchProcess:
        return None
    except psutil.Error:
        return 0
