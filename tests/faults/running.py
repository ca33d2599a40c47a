"""Run a command in this process as a shell would, with a limit of time."""

from __future__ import annotations

import contextlib
import io
import logging
import signal
import sys
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from richkd.cli import main


@dataclass(frozen=True)
class Ended:
    """How a command ended: its status (None if it did not end with one), and what it printed."""

    status: int | None
    text: str


class TooLongError(BaseException):
    """The limit of time; no handler of errors in the package catches it."""


def run(argv: Sequence[str], seconds: int = 20) -> Ended:
    """Run ``richkd`` with these arguments; an exception that leaves it is printed as Python does."""
    printed, status = io.StringIO(), 0
    with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
        try:
            with _limit(seconds):
                main(list(argv))
        except SystemExit as ended:
            status = ended.code if isinstance(ended.code, int) else 1
        except TooLongError:
            return Ended(None, f"{printed.getvalue()}\nnot ended after {seconds} s")
        except BaseException:
            traceback.print_exc(file=printed)
            return Ended(None, printed.getvalue())
    return Ended(status, printed.getvalue())


def fault(argv: Sequence[str], *, may_succeed: bool = False, seconds: int = 20) -> str | None:
    """What is wrong with the way in which a command ends; None if nothing is."""
    ended = run(argv, seconds)
    if "Traceback" in ended.text or ended.status is None:
        return f"{' '.join(argv)[:300]}\n{ended.text[-3000:]}"
    if ended.status not in ((0, 1, 2) if may_succeed else (1, 2)):
        return f"{' '.join(argv)[:300]}\nended with {ended.status}: {ended.text[-1000:]}"
    if ended.status and not ended.text.strip():
        return f"{' '.join(argv)[:300]}\nended with {ended.status} without a word"
    return None


@contextlib.contextmanager
def _limit(seconds: int) -> Iterator[None]:
    def stop(number: int, frame: Any) -> None:
        raise TooLongError

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
        # Handlers keep the stream that they were made with.
        for handler in list(logging.getLogger("richkd").handlers):
            logging.getLogger("richkd").removeHandler(handler)
        sys.stdout.flush()
