"""Differences to the baseline as charts: a row for each method, with its seeds and its intervals."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

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


@dataclass(frozen=True)
class _Metric:
    """A metric of which charts are drawn.

    Attributes:
        name: the field of `Difference` and of the figures of a run.
        title: what the chart is called, with the name of the baseline.
        unit: factor of the values.
        digits: decimals.
        sign: 1 if higher is better, -1 if lower is.
    """

    name: str
    title: str
    unit: float
    digits: int
    sign: int


METRICS = (
    _Metric("top1", "Accuracy minus that of {}, points: higher is better", 100, 2, 1),
    _Metric("nll", "Calibrated NLL minus that of {}, nats: lower is better", 1, 3, -1),
)


def difference_charts(cell: CellFigures) -> tuple[DifferenceChart, ...]:
    """Charts of accuracy and of calibrated NLL; none if no method has a difference."""
    if not any(method.difference for method in cell.methods):
        return ()
    return tuple(_chart(cell, metric) for metric in METRICS)


def _chart(cell: CellFigures, metric: _Metric) -> DifferenceChart:
    baseline = next(method for method in cell.methods if method.name == cell.baseline)
    rows = [_row(method, method.difference, baseline, metric) for method in cell.methods if method.difference]
    # The t-interval over two or three seeds can be many times as wide as all that was measured.
    ends = [0.0, *(value for row in rows for value in (*row.images, *row.runs))]
    margin = MARGIN * (max(ends) - min(ends)) or 10.0**-metric.digits
    low, high = min(ends) - margin, max(ends) + margin
    ordered = sorted(rows, key=lambda row: -metric.sign * row.mean)
    cut = tuple(
        replace(row, seeds=row.seeds and (max(low, row.seeds[0]), min(high, row.seeds[1]))) for row in ordered
    )
    title = metric.title.format(cell.baseline)
    return DifferenceChart(title, metric.digits, low, high, ticks(low, high), cut)


def _row(method: MethodFigures, difference: Difference, baseline: MethodFigures, metric: _Metric) -> Row:
    seeds: OverSeeds = getattr(difference, metric.name)
    images: Interval = getattr(difference, f"{metric.name}_images")
    ours, theirs = ({run.seed: getattr(run, metric.name) for run in one.runs} for one in (method, baseline))
    certain = images.low * images.high > 0
    kind = "unclear" if not certain else "better" if metric.sign * images.low > 0 else "worse"
    return Row(
        method.name,
        metric.unit * seeds.mean,
        (metric.unit * images.low, metric.unit * images.high),
        None
        if seeds.low is None or seeds.high is None
        else (metric.unit * seeds.low, metric.unit * seeds.high),
        tuple(metric.unit * (ours[seed] - theirs[seed]) for seed in difference.seeds),
        kind,
    )


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
