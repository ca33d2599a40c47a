"""Progress of a comparison: a line when a run ends, and the time that is left."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from richkd.compare.runs import AnyRun
from richkd.compare.time_left import TimeLeft
from richkd.compare.worker import Job, Outcome
from richkd.core.errors import RichKDError
from richkd.core.terminal import Terminal
from richkd.core.waiting import clock
from richkd.training.run_folder import RunFolder, read_lines

# Seconds between two lines about runs that take long.
REPORT_SECONDS = 60.0


class QueueProgress:
    """Prints how far a queue is.

    Args:
        runs: all runs of the plan, with first runs.
        finished: names of those that are finished already.
        console: where to print.
        at_once: number of runs at once.
        split: the split whose accuracy is printed.
        images: number of training images in an epoch of each run, by its name; equal numbers if it is empty.
    """

    def __init__(
        self,
        runs: Sequence[AnyRun],
        finished: Sequence[str],
        console: Terminal,
        at_once: int,
        split: str = "test",
        images: Mapping[str, int] | None = None,
    ) -> None:
        self.split = split
        self.runs = {run.name: run for run in runs}
        self.console = console
        self._ended = set(finished)
        self._running: list[str] = []
        self._began = self._reported = time.monotonic()
        self._time_left = TimeLeft(runs, at_once, images or {})

    def began(self, job: Job) -> None:
        """A run began."""
        self._running.append(job.name)

    def ended(self, job: Job, outcome: Outcome) -> None:
        """A run ended; print its result and the time that is left."""
        self._running.remove(job.name)
        if outcome.state == "stopped":
            rest = f"goes on {outcome.reason}" if outcome.reason else "saved"
            self._say(f"{job.name}: stopped, {rest}")
            return
        self._ended.add(job.name)
        result = f"failed: {outcome.reason}" if outcome.state == "failed" else self._result(job)
        self._say(f"[{len(self._ended)}/{len(self.runs)}] {job.name}: {result}{self._left()}")

    def given_up(self, name: str, reason: str) -> None:
        """A run cannot begin."""
        self._ended.add(name)
        self._say(f"[{len(self._ended)}/{len(self.runs)}] {name}: failed: {reason}{self._left()}")

    def look(self) -> None:
        """Print a line about running jobs now and then."""
        if time.monotonic() - self._reported >= REPORT_SECONDS and self._running:
            running = ", ".join(f"{name} (epoch {self._epoch(name)})" for name in self._running)
            self._say(f"[{len(self._ended)}/{len(self.runs)}] running: {running}{self._left()}")

    def _say(self, text: str) -> None:
        self._reported = time.monotonic()
        self.console.print(text, soft_wrap=True)

    def _result(self, job: Job) -> str:
        try:
            summary = RunFolder(job.config.out).summary()
        except RichKDError:
            summary = None
        return "finished" if summary is None else f"{self.split} top-1 {top1_of(summary, self.split)}"

    def _epoch(self, name: str) -> str:
        config = self.runs[name].config
        return f"{len(read_lines(RunFolder(config.out).timing))}/{config.train.epochs}"

    def _left(self) -> str:
        seconds = self._time_left.seconds(self._ended, time.monotonic() - self._began)
        return f", {clock(seconds)} left" if seconds else ""


def top1_of(summary: Mapping[str, Any], split: str) -> str:
    """The accuracy on a split in percent, for people."""
    return f"{summary['splits'][split]['top1']:.2%}"
