"""Differences to the baseline as charts: a row for each method, with its seeds and its intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from richkd.compare.results import CellFigures, Difference, MethodFigures
from richkd.metrics.intervals import Interval
from richkd.metrics.seeds import OverSeeds

# Share of the range that is free at both ends of the axis, and the least number of its steps.
MARGIN, STEPS = 0.06, 4
Bounds = tuple[float, float]


@dataclass(frozen=True)
class Row:
    """The difference of a method, in the unit of the chart.

    Attributes:
        method: name of the method.
        mean: mean over the seeds.
        images: its interval over images.
        seeds: its t-interval over seeds, as far as the axis goes; None with one seed.
        runs: the difference of each seed.
        kind: "better" or "worse" if the interval over images excludes zero, else "unclear".
    """

    method: str
    mean: float
    images: Bounds
    seeds: Bounds | None
    runs: tuple[float, ...]
    kind: str


@dataclass(frozen=True)
class DifferenceChart:
    """A chart of differences to the baseline.

    Attributes:
        title: the metric, its unit, and which side is better.
        digits: decimals of its numbers.
        low, high: the ends of the axis.
        ticks: the values that are written at the axis; zero is one of them.
        rows: the methods, the best first.
    """

    title: str
    digits: int
    low: float
    high: float
    ticks: tuple[float, ...]
    rows: tuple[Row, ...]


def difference_charts(cell: CellFigures) -> tuple[DifferenceChart, ...]:
    """Charts of accuracy and of calibrated NLL; none if no method has a difference."""
    found = [(method, method.difference) for method in cell.methods if method.difference]
    if not found:
        return ()
    baseline = next(method for method in cell.methods if method.name == cell.baseline)
    top1 = [_row(m.name, d.top1, d.top1_images, _by_seed(m, baseline, d, "top1"), 100, 1) for m, d in found]
    nll = [_row(m.name, d.nll, d.nll_images, _by_seed(m, baseline, d, "nll"), 1, -1) for m, d in found]
    return (
        _chart(f"Accuracy minus that of {cell.baseline}, points: higher is better", 2, top1, 1),
        _chart(f"Calibrated NLL minus that of {cell.baseline}, nats: lower is better", 3, nll, -1),
    )


def _by_seed(method: MethodFigures, baseline: MethodFigures, found: Difference, name: str) -> list[float]:
    ours, theirs = ({run.seed: getattr(run, name) for run in one.runs} for one in (method, baseline))
    return [ours[seed] - theirs[seed] for seed in found.seeds]


def _row(
    name: str, seeds: OverSeeds, images: Interval, runs: Sequence[float], unit: float, better: int
) -> Row:
    low, high = sorted((better * images.low, better * images.high))
    kind = "better" if low > 0 else "worse" if high < 0 else "unclear"
    over = None if seeds.low is None or seeds.high is None else (unit * seeds.low, unit * seeds.high)
    values = tuple(unit * value for value in runs)
    return Row(name, unit * seeds.mean, (unit * images.low, unit * images.high), over, values, kind)


def _chart(title: str, digits: int, rows: Sequence[Row], better: int) -> DifferenceChart:
    # The t-interval over two or three seeds can be many times as wide as all that was measured.
    ends = [0.0, *(value for row in rows for value in (*row.images, *row.runs))]
    margin = MARGIN * (max(ends) - min(ends)) or 10.0**-digits
    low, high = min(ends) - margin, max(ends) + margin
    ordered = sorted(rows, key=lambda row: -better * row.mean)
    cut = tuple(_cut(row, low, high) for row in ordered)
    return DifferenceChart(title, digits, low, high, ticks(low, high), cut)


def _cut(row: Row, low: float, high: float) -> Row:
    seeds = row.seeds and (max(low, row.seeds[0]), min(high, row.seeds[1]))
    return Row(row.method, row.mean, row.images, seeds, row.runs, row.kind)


def ticks(low: float, high: float) -> tuple[float, ...]:
    """Multiples of 1, 2 or 5 times a power of ten in [low, high]; at least `STEPS` steps fit in the range.

    Args:
        low, high: the ends of the axis, low < high.

    Example:
        >>> ticks(-2.3, 4.1), ticks(-0.09, 0.03)
        ((-2.0, -1.0, 0.0, 1.0, 2.0, 3.0, 4.0), (-0.08, -0.06, -0.04, -0.02, 0.0, 0.02))
    """
    largest = (high - low) / STEPS
    power = 10.0 ** math.floor(math.log10(largest))
    step = max(factor * power for factor in (1, 2, 5) if factor * power <= largest * (1 + 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return tuple(round(place * step, 10) for place in range(first, last + 1))
