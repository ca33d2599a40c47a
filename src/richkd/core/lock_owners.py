"""The content of a lock file: its owners, and the messages that name them."""

from __future__ import annotations

import contextlib
import json
import os
import time
from dataclasses import asdict
from pathlib import Path

from richkd.core.errors import RichKDError
from richkd.core.process import Process, is_running, this_process

# An owner on another host touches the file every few seconds. Without a touch for so long, it has ended.
SECONDS_SILENT = 120.0


class Locked(Exception):
    """A lock is held by others. Callers turn it into a message that says what is in use (`in_use`).

    Example:
        >>> Locked([Process("desk", 0, 4711, 99)], 3.0).describe()
        'process 4711 on desk'
    """

    def __init__(self, owners: list[Process], age: float) -> None:
        self.owners, self.age = owners, age
        super().__init__(self.describe())

    def describe(self) -> str:
        """The owners, for messages."""
        return ", ".join(dict.fromkeys(owner.describe() for owner in self.owners)) or "another process"

    @property
    def elsewhere(self) -> bool:
        """Whether an owner is on another host, so that nobody here can find out whether it still runs."""
        return any(owner.host != this_process().host for owner in self.owners)


def in_use(held: Locked, path: Path, kind: type[RichKDError], rule: str) -> RichKDError:
    """The error to raise if a lock is held: names the owners and, for another host, the file to remove.

    Example:
        >>> held = Locked([Process("a-host-far-away", 0, 4711, 99)], 3.0)
        >>> print(in_use(held, Path("x/richkd.lock"), RichKDError, "Only one run may use it"))
        Only one run may use it
        Got: it is in use by process 4711 on a-host-far-away, last seen 3 s ago
        Fix: wait until it ends, or stop it. If it no longer runs, remove x/richkd.lock or wait 2 minutes.
    """
    fix, seen = "wait until it ends, or stop it.", ""
    if held.elsewhere:
        seen = f", last seen {held.age:.0f} s ago"
        fix += f" If it no longer runs, remove {path} or wait {SECONDS_SILENT / 60:.0f} minutes."
    return kind(rule, got=f"it is in use by {held.describe()}{seen}", fix=fix)


def still_holds(owner: Process, age: float, *, flock: bool) -> bool:
    """Whether an owner in the content of a lock file holds it although this process could open it.

    Args:
        owner: the owner.
        age: seconds since the file was touched.
        flock: whether the system has locks, and gave this one to this process. All owners of this host have
            then released it; locks of other hosts may be invisible.

    Example:
        >>> me, other = this_process(), Process("a-host-far-away", 0, 4711, 99)
        >>> still_holds(me, 0.0, flock=True), still_holds(me, 0.0, flock=False)
        (False, True)
        >>> still_holds(other, 3.0, flock=True), still_holds(other, 1000.0, flock=True)
        (True, False)
    """
    me = this_process()
    if owner.host != me.host or (not flock and owner.space != me.space):
        return age < SECONDS_SILENT
    return not flock and is_running(owner.pid, owner.start)


def line_of(owner: Process) -> bytes:
    """The line of an owner in a lock file.

    Example:
        >>> line_of(Process("desk", 0, 4711, 99))
        b'{"host": "desk", "space": 0, "pid": 4711, "start": 99}\\n'
    """
    return json.dumps(asdict(owner)).encode() + b"\n"


def read_owners(file: Path | int) -> tuple[list[Process], float]:
    """The owners that a lock file (a path or a descriptor) names, and seconds since it was touched.

    Lines that name no owner are skipped; a file that cannot be read has none.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "richkd.lock"
        ...     size = path.write_bytes(line_of(this_process()) + b"notes")
        ...     read_owners(path)[0] == [this_process()], read_owners(path.with_name("no.lock"))
        (True, ([], 0.0))
    """
    try:
        if isinstance(file, Path):
            content, touched = file.read_bytes(), file.stat().st_mtime
        else:
            os.lseek(file, 0, os.SEEK_SET)
            # Owners are short lines; more is no lock file of ours.
            content, touched = os.read(file, 1 << 20), os.fstat(file).st_mtime
    except OSError:
        return [], 0.0
    owners = []
    for line in content.splitlines():
        with contextlib.suppress(ValueError, TypeError, KeyError):
            fields = json.loads(line)
            owners.append(
                Process(str(fields["host"]), *(int(fields[key]) for key in ("space", "pid", "start")))
            )
    return owners, max(0.0, time.time() - touched)
