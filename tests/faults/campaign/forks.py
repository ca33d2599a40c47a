"""Commands in forked processes: the packages are imported already, so a command takes a second, not ten."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from richkd.cli import main

TOO_LONG = 120.0
STEP = 0.005


@dataclass(frozen=True)
class Ended:
    """How a forked command ended.

    Attributes:
        status: its exit status; minus the signal that ended it.
        text: what it printed.
        seconds: how long it ran.
    """

    status: int
    text: str
    seconds: float


class Command:
    """A running command; `wait` ends it at the latest after a limit of time."""

    def __init__(self, argv: Sequence[str]) -> None:
        self.argv, self.started = list(argv), time.monotonic()
        handle, name = tempfile.mkstemp(prefix="richkd-faults-")
        self._printed = Path(name)
        self._pid = os.fork()
        if self._pid == 0:
            _child(self.argv, handle)
        os.close(handle)

    def kill_after(self, seconds: float, by: signal.Signals = signal.SIGKILL) -> bool:
        """Send a signal after some time; False if the command had ended by then."""
        while time.monotonic() - self.started < seconds:
            if self._ended():
                return False
            time.sleep(STEP)
        if self._ended():
            return False
        os.kill(self._pid, by)
        return True

    def wait(self, seconds: float = TOO_LONG) -> Ended:
        """Wait for the end."""
        while not self._ended():
            if time.monotonic() - self.started > seconds:
                os.kill(self._pid, signal.SIGKILL)
            time.sleep(STEP)
        _, status = os.waitpid(self._pid, 0)
        text = self._printed.read_text(encoding="utf-8", errors="replace")
        self._printed.unlink()
        return Ended(os.waitstatus_to_exitcode(status), text, time.monotonic() - self.started)

    def _ended(self) -> bool:
        # WNOWAIT leaves the process to be waited for once more.
        return os.waitid(os.P_PID, self._pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def run(argv: Sequence[str], seconds: float = TOO_LONG) -> Ended:
    """Run a command to its end."""
    return Command(argv).wait(seconds)


def _child(argv: list[str], handle: int) -> None:
    os.setsid()
    os.dup2(handle, 1)
    os.dup2(handle, 2)
    sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
    status = 0
    try:
        main(argv)
    except SystemExit as ended:
        status = ended.code if isinstance(ended.code, int) else 1
    except BaseException:
        traceback.print_exc()
        status = 70
    with contextlib.suppress(OSError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(status)
