"""Stopping a run from outside: signals become a request that the loop heeds between steps."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType


class Interrupted(Exception):
    """A signal asked the run to stop; it was saved and can go on with ``--resume``."""


@dataclass
class StopRequest:
    """Whether SIGINT or SIGTERM came in."""

    requested: bool = False


@contextmanager
def stop_request() -> Iterator[StopRequest]:
    """Turn SIGINT and SIGTERM into a request that the loop heeds between steps; a second one ends at once."""
    stop = StopRequest()
    # Only the main thread may set handlers; elsewhere signals keep their usual meaning.
    try:
        previous = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)}

        def request(number: int, frame: FrameType | None) -> None:
            stop.requested = True
            for s, handler in previous.items():
                signal.signal(s, handler)

        for s in previous:
            signal.signal(s, request)
    except ValueError:
        previous = {}
    try:
        yield stop
    finally:
        for s, handler in previous.items():
            signal.signal(s, handler)
