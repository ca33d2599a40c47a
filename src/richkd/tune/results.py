"""What a search found: the figures of all trials on the validation split, and what each choice was worth."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from statistics import median
from typing import Any

from richkd.config.schema import Config
from richkd.core.errors import CheckpointError
from richkd.training.run_folder import RunFolder
from richkd.tune.halving import Halving
from richkd.tune.space import Choices, Entry, Range
from richkd.tune.study import TrialRecord
from richkd.tune.trials import SearchedMethod

PARTS_OF_RANGE = 3


@dataclass(frozen=True)
class Figures:
    """Figures of a run on the validation split after the last epoch.

    Attributes:
        top1: accuracy, in 0..1.
        nll: negative log-likelihood with the fitted temperature, in nats.
    """

    top1: float
    nll: float

    def value(self, metric: str) -> float:
        """The figure of a name."""
        return {"top1": self.top1, "nll": self.nll}[metric]


@dataclass(frozen=True)
class Worth:
    """Trials with one choice of a setting, or in one part of its range.

    Attributes:
        choice: the choice, or the part of the range, in words.
        trials: number of trials.
        best, middle: best and median figure after the shortest runs; None without trials.
    """

    choice: str
    trials: int
    best: float | None
    middle: float | None


@dataclass(frozen=True)
class SearchResult:
    """The search of one method.

    Attributes:
        method: the method and its space.
        halving: its ladder.
        records: all trials.
        best: the trial that was found; None if no long run finished.
        config: its settings.
        figures: figures by trial and number of epochs.
    """

    method: SearchedMethod
    halving: Halving
    records: tuple[TrialRecord, ...]
    best: TrialRecord | None
    config: Config | None
    figures: dict[tuple[int, int], Figures]

    @property
    def best_value(self) -> float:
        """The figure of the trial that was found."""
        assert self.best is not None
        return self.best.values[self.halving.rungs[-1]]

    @property
    def epochs(self) -> int:
        """Epochs of all finished runs; trials with equal settings share theirs."""
        return sum(epochs for _, epochs in {(r.first, epochs) for r in self.records for epochs in r.values})

    def worth(self, entry: Entry, *, maximize: bool) -> list[Worth]:
        """What the choices of an entry were worth in the shortest runs, which all trials have."""
        shortest = self.halving.rungs[0]
        values = [(r.point[entry.name], r.values[shortest]) for r in self.records if shortest in r.values]
        return [
            _worth(choice, [value for point, value in values if part(point)], maximize)
            for choice, part in _parts(entry)
        ]


def figures_of(config: Config) -> Figures:
    """The figures of a finished run.

    Raises:
        CheckpointError: its summary is damaged, or has no figures of a validation split.
    """
    summary = RunFolder(config.out).summary()
    try:
        assert summary is not None
        split = summary["splits"]["val"]
        return Figures(float(split["top1"]), float(split["calibrated"]["nll"]))
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{config.out / 'summary.json'} must have the figures of the validation split",
            got=f"no {error}",
            fix="delete the run folder and repeat the command.",
        ) from error


def _parts(entry: Entry) -> list[tuple[str, Any]]:
    if isinstance(entry, Choices):
        return [(name, partial(operator.eq, name)) for name in entry.options]
    ends = _ends(entry)
    # A last end that was rounded down would leave the largest value out.
    bounds = [*pairwise([*ends[:-1], math.inf])]
    names = [f"{low:.3g} to {high:.3g}" for low, high in pairwise(ends)]
    return [(name, partial(_is_in, *bound)) for name, bound in zip(names, bounds, strict=True)]


def _is_in(low: float, high: float, value: float) -> bool:
    return low <= value < high


def _ends(entry: Range) -> list[float]:
    """Ends of equally probable parts of a range."""
    shares = [place / PARTS_OF_RANGE for place in range(PARTS_OF_RANGE + 1)]
    if entry.log:
        return [entry.low * (entry.high / entry.low) ** share for share in shares]
    return [entry.low + (entry.high - entry.low) * share for share in shares]


def _worth(choice: str, values: Sequence[float], maximize: bool) -> Worth:
    best = None if not values else max(values) if maximize else min(values)
    return Worth(choice, len(values), best, median(values) if values else None)
