"""Say what a command is waiting for, if it takes longer than two seconds.

Lines go to standard error, after 2, 4, 8, … seconds and later once a minute. Only commands show them, and of
several processes only the first, so the library stays silent.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from richkd.core.terminal import log_to_stderr

Item = TypeVar("Item")
# When the first line is printed, and the longest time between two lines.
FIRST, MOST = 2.0, 60.0
_shown = False


@contextmanager
def waits_shown() -> Iterator[None]:
    """Context of a command in which waits are shown.

    Example:
        >>> with waits_shown():
        ...     list(waiting("decoding", [1, 2], total=2))
        [1, 2]
    """
    global _shown
    before, _shown = _shown, os.environ.get("RANK", "0") == "0"
    try:
        yield
    finally:
        _shown = before


class Schedule:
    """The times at which lines are printed: 2, 4, 8, … seconds after the beginning, then once a minute.

    Args:
        first: seconds until the first line.
        now: the clock, in seconds.

    Example:
        >>> times = iter([0.0, 1.9, 2.1, 3.9, 4.3])
        >>> schedule = Schedule(now=lambda: next(times))
        >>> [schedule.due() for _ in range(4)]
        [False, True, False, True]
    """

    def __init__(self, first: float = FIRST, now: Callable[[], float] = time.monotonic) -> None:
        self.now, self.began = now, now()
        self.next = first

    def due(self) -> bool:
        """Whether a line is to be printed now."""
        if (seconds := self.now() - self.began) < self.next:
            return False
        self.next = seconds + min(seconds, MOST)
        return True

    @property
    def seconds(self) -> float:
        """Seconds since the beginning."""
        return self.now() - self.began


class Wait:
    """Counts what is done, and prints lines meanwhile.

    Args:
        what: what is done, such as ``"decoding train"``.
        total: how many there are.
        unit: of what.

    Example:
        >>> wait = Wait("decoding train", 2)
        >>> wait.advance(2)
        >>> wait.end()
    """

    def __init__(self, what: str, total: int, unit: str = "images") -> None:
        self.what, self.total, self.unit, self.done = what, total, unit, 0
        self._schedule, self._logged = Schedule(), False

    def advance(self, count: int = 1) -> None:
        """Count what was done."""
        self.done += count
        if _shown and 0 < self.done < self.total and self._schedule.due():
            self._logged = True
            left = self._schedule.seconds * (self.total - self.done) / self.done
            counts = f"{self.done:,} of {self.total:,} {self.unit}"
            log_to_stderr(f"{self.what}: {counts}, {clock(left)} left")

    def end(self) -> None:
        """Say how long it took, if anything was said before."""
        if self._logged:
            log_to_stderr(f"{self.what}: {self.done:,} {self.unit} in {self._schedule.seconds:.1f} s")


def waiting(
    what: str,
    items: Iterable[Item],
    total: int,
    unit: str = "images",
    count: Callable[[Item], int] = lambda item: 1,
) -> Iterator[Item]:
    """The items, with lines about how many of them are done.

    Args:
        what: what is done with them.
        items: the items.
        total: the sum of their counts.
        unit: what is counted.
        count: how many an item counts.

    Example:
        >>> list(waiting("evaluating test", [[1, 2], [3]], total=3, count=len))
        [[1, 2], [3]]
    """
    wait = Wait(what, total, unit)
    for item in items:
        yield item
        wait.advance(count(item))
    wait.end()


@contextmanager
def still(what: str, first: float = FIRST) -> Iterator[None]:
    """Context that prints what is going on, if it takes long and nothing can be counted.

    Args:
        what: what is going on.
        first: seconds until the first line.

    Example:
        >>> with still("measuring precisions"):
        ...     pass
    """
    if not _shown:
        yield
        return
    ended, schedule = threading.Event(), Schedule(first)

    def speak() -> None:
        while not ended.wait(max(0.0, schedule.next - schedule.seconds)):
            if schedule.due():
                log_to_stderr(f"{what}: {schedule.seconds:.0f} s so far")

    thread = threading.Thread(target=speak, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def clock(seconds: float) -> str:
    """A duration as minutes and seconds, with hours and days where it has them.

    Example:
        >>> clock(75), clock(3700), clock(90_000)
        ('1:15', '1:01:40', '1 d 1:00:00')
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days} d {hours}:{minutes:02}:{rest:02}"
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
