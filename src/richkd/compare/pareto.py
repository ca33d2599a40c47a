"""Students by accuracy and cost: which of them no other one beats in both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from richkd.compare.costs import RunCost
from richkd.compare.results import CellFigures
from richkd.core.visible import counted

# Cost by name: what it is called, and the divisor that gives its unit.
COSTS = {
    "parameters": ("parameters, M", 1e6),
    "latency_ms": ("latency, ms an image", 1.0),
    "seconds": ("training time, s", 1.0),
}


@dataclass(frozen=True)
class Point:
    """A method with one of the students.

    Attributes:
        method: name of the method.
        pair: name of the pair, which has the student.
        cost: the cost, in the unit of the chart.
        top1: mean accuracy over seeds.
        best: whether no other point has at most this cost and at least this accuracy, and is better in one.
    """

    method: str
    pair: str
    cost: float
    top1: float
    best: bool


@dataclass(frozen=True)
class Chart:
    """Accuracy against one cost, for one data set and one budget.

    Attributes:
        title: data and budget.
        cost: what the cost is called.
        points: all methods with all students.
    """

    title: str
    cost: str
    points: tuple[Point, ...]


def charts_of(cells: Sequence[CellFigures], costs: Mapping[str, RunCost]) -> tuple[Chart, ...]:
    """A chart for each cost, data set and budget that was compared with several students."""
    groups: dict[tuple[str, int], list[CellFigures]] = {}
    for cell in cells:
        groups.setdefault((cell.cell.data, cell.cell.epochs), []).append(cell)
    charts = []
    for (data, epochs), members in groups.items():
        if len({cell.cell.pair for cell in members}) < 2:
            continue
        title = ", ".join(part for part in (data, counted(epochs, "epoch")) if part)
        charts += [
            Chart(title, label, _points(members, costs, name, unit)) for name, (label, unit) in COSTS.items()
        ]
    return tuple(chart for chart in charts if len(chart.points) > 1)


def are_best(points: Sequence[tuple[float, float]]) -> list[bool]:
    """Whether each point (cost, accuracy) is on the Pareto front.

    Example:
        >>> are_best([(1.0, 0.5), (2.0, 0.7), (3.0, 0.6)])
        [True, True, False]
    """
    return [
        not any(x <= cost and y >= top1 and (x < cost or y > top1) for x, y in points)
        for cost, top1 in points
    ]


def _points(
    cells: Sequence[CellFigures], costs: Mapping[str, RunCost], name: str, unit: float
) -> tuple[Point, ...]:
    values = [
        (
            method.name,
            cell.cell.pair,
            fmean(getattr(costs[run.name], name) for run in method.runs) / unit,
            method.top1.mean,
        )
        for cell in cells
        for method in cell.methods
        if method.top1 is not None
    ]
    best = are_best([(cost, top1) for _, _, cost, top1 in values])
    return tuple(Point(*value, on_front) for value, on_front in zip(values, best, strict=True))
