"""Stop a run by a signal: the signal sets a flag that the training loop checks between steps."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType


class Interrupted(Exception):
    """The run was stopped by a signal after its state was saved; ``--resume`` continues it.

    It is not a `RichKDError`, because nothing has to be fixed.

    Example:
        >>> from richkd.core.errors import RichKDError
        >>> issubclass(Interrupted, RichKDError)
        False
    """


@dataclass
class StopRequest:
    """Whether SIGINT, SIGTERM or SIGHUP was received; made by `catch_stop_signals`."""

    requested: bool = False


@contextmanager
def catch_stop_signals(*, once: bool = True) -> Iterator[StopRequest]:
    """Context in which the first SIGINT, SIGTERM or SIGHUP only sets a flag: a loop can stop between steps.

    The first signal restores the previous handlers, so a second signal stops the process immediately. A
    second SIGHUP does not: a terminal that closes sends one through the shell and one through the kernel.
    SIGHUP stays ignored if it was, as under ``nohup``. Outside the main thread Python allows no signal
    handlers, and the context does nothing.

    Args:
        once: a second signal stops the process. False for processes of a launcher, which get a signal of the
            terminal twice: from the terminal and from the launcher.

    Example:
        >>> with catch_stop_signals() as stop:
        ...     signal.raise_signal(signal.SIGINT)
        ...     stop.requested
        True
    """
    stop = StopRequest()
    previous = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)}
    closed = getattr(signal, "SIGHUP", None)  # Windows has none

    def request(number: int, frame: FrameType | None) -> None:
        stop.requested = True
        for s, handler in previous.items():
            if once and s != closed:
                signal.signal(s, handler)

    if closed is not None and signal.getsignal(closed) != signal.SIG_IGN:
        previous[closed] = signal.getsignal(closed)
    try:
        for s in previous:
            signal.signal(s, request)
    except ValueError:  # not the main thread
        previous = {}
    after = previous
    try:
        yield stop
    except Interrupted:
        # Each process of a launcher gets its own signal, maybe while it is ending because of another's.
        after = previous if once else dict.fromkeys(previous, signal.SIG_IGN)
        raise
    finally:
        for s, handler in after.items():
            signal.signal(s, handler)
