"""How long a queue will take, from the epochs that were timed."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from itertools import chain
from statistics import median

from richkd.compare.first import FirstRun
from richkd.compare.runs import AnyRun
from richkd.training.run_folder import RunFolder, read_lines


class TimeLeft:
    """The time that a queue still needs.

    An epoch that is left takes as long as those of the same run, else as those of the same method, else, in
    proportion to its images, as those of all methods. First runs train other networks, so they are estimated
    separately.

    How many epochs are computed at once, and the time between them, follow from the seconds of epochs per
    second of this session. They are counted again when the last first run has ended, because first runs are
    often fewer than the runs at once. The first epochs begin late and end at other times, so the number of
    runs at once counts as well, like one more epoch of each of them.

    Args:
        runs: all runs of the queue.
        at_once: number of runs at once.
        images: number of training images in an epoch of each run, by its name; equal numbers if it is empty.
    """

    def __init__(self, runs: Sequence[AnyRun], at_once: int, images: Mapping[str, int]) -> None:
        self._runs, self._at_once, self._images = runs, at_once, images
        self._first = {run.name for run in runs if isinstance(run, FirstRun)}
        self._begin(0.0)

    def _begin(self, elapsed: float) -> None:
        self._began, self._before = elapsed, sum(sum(epoch_seconds(run)) for run in self._runs)

    def seconds(self, ended: Collection[str], elapsed: float) -> float | None:
        """Seconds until all runs have ended; None as long as nothing says how long they take.

        Args:
            ended: names of runs that ended, also of failed ones.
            elapsed: seconds since the queue began in this session.
        """
        if self._first and self._first.issubset(ended):
            self._first.clear()
            self._begin(elapsed)
        timed = {run.name: epoch_seconds(run) for run in self._runs}
        done, elapsed = sum(map(sum, timed.values())) - self._before, elapsed - self._began
        if done <= 0 or elapsed <= 0:
            return None
        left, typical = 0.0, median(list(chain.from_iterable(timed.values())))
        for run in self._runs:
            epochs = 0 if run.name in ended else run.config.train.epochs - len(timed[run.name])
            if epochs > 0:
                seconds = self._epoch_of(run, timed)
                if seconds is None:
                    return None
                left += epochs * seconds
        return left / ((done + self._at_once * typical) / (elapsed + typical))

    def _epoch_of(self, run: AnyRun, timed: Mapping[str, Sequence[float]]) -> float | None:
        """Seconds of an epoch of a run; None if no similar run has been timed."""
        for similar in _similar(run, self._runs):
            known = [s / self._images.get(one.name, 1) for one in similar for s in timed[one.name]]
            if known:
                return median(known) * self._images.get(run.name, 1)
        return None


def epoch_seconds(run: AnyRun) -> list[float]:
    """The seconds of each epoch that a run has done."""
    return [float(line["seconds"]) for line in read_lines(RunFolder(run.config.out).timing)]


def _similar(run: AnyRun, runs: Sequence[AnyRun]) -> tuple[Sequence[AnyRun], ...]:
    """Runs whose epochs are as long as this one's for as many images, the most similar ones first."""
    of_kind = [other for other in runs if isinstance(other, FirstRun) == isinstance(run, FirstRun)]
    return [run], [other for other in of_kind if other.label == run.label], of_kind
