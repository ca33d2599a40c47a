"""The tables of a comparison: one row for each method of a cell, as text and as numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from richkd.compare.costs import RunCost
from richkd.compare.results import CellFigures, Difference, MethodFigures
from richkd.metrics.intervals import Interval
from richkd.metrics.seeds import OverSeeds

SIGNIFICANT = 0.05
HEADS = (
    "method",
    "seeds",
    "top-1",
    "95% CI",
    "NLL",
    "95% CI",
    "Δ top-1, points",
    "95% CI, seeds",
    "95% CI, images",
    "Δ NLL",
    "McNemar p < 0.05",
    "parameters, M",
    "MFLOPs",
    "latency, ms",
    "training, s",
)
CONFIDENCE = (
    "method",
    "NLL",
    "Δ NLL",
    "95% CI, seeds",
    "95% CI, images",
    "ECE",
    "95% CI",
    "wrong in most confident 50 %",
    "95% CI",
)
FURTHER = (
    "method",
    "superclass AUROC",
    "95% CI",
    "wrong on corrupted images",
    "95% CI",
    "Δ wrong, points",
    "95% CI, seeds",
)
NUMBERS = (
    *("pair", "data", "epochs", "method", "control_of", "baseline", "images", "seeds", "failed"),
    *("top1", "top1_sd", "top1_low", "top1_high"),
    *("nll", "nll_sd", "nll_low", "nll_high"),
    *("ece", "ece_sd", "ece_low", "ece_high"),
    *("half_error", "half_error_sd", "half_error_low", "half_error_high"),
    *("superclass_auroc", "superclass_auroc_sd", "superclass_auroc_low", "superclass_auroc_high"),
    *("corrupted_error", "corrupted_error_sd", "corrupted_error_low", "corrupted_error_high"),
    *("corrupted_difference", "corrupted_difference_low", "corrupted_difference_high"),
    *("top1_difference", "top1_difference_low", "top1_difference_high"),
    *("top1_difference_images_low", "top1_difference_images_high"),
    *("nll_difference", "nll_difference_low", "nll_difference_high"),
    *("nll_difference_images_low", "nll_difference_images_high"),
    *("parameters", "flops", "latency_ms", "training_seconds"),
)


def rows_of(cell: CellFigures, costs: Mapping[str, RunCost]) -> list[list[str]]:
    """The table of a cell as text, with the columns `HEADS`."""
    return [_row(method, costs) for method in cell.methods]


def confidence_rows(cell: CellFigures) -> list[list[str]]:
    """How far the probabilities of each method can be trusted, as text, with the columns `CONFIDENCE`."""
    return [
        [
            method.name,
            _plain(method.nll),
            *_nll_difference(method.difference),
            _plain(method.ece),
            _range(method.ece, 1, 3),
            _percent(method.half_error, ""),
            _range(method.half_error, 100, 1),
        ]
        for method in cell.methods
    ]


def further_table(cell: CellFigures) -> tuple[tuple[str, ...], list[list[str]]] | None:
    """Heads and rows on wrong classes and corrupted images, as far as they were measured; None if neither."""
    known = [
        any(method.superclass_auroc is not None for method in cell.methods),
        any(method.corrupted_error is not None for method in cell.methods),
    ]
    if not any(known):
        return None
    places = [0, *range(1, 3 if known[0] else 1), *range(3, 7 if known[1] else 3)]
    rows = [_further_row(method) for method in cell.methods]
    return tuple(FURTHER[place] for place in places), [[row[place] for place in places] for row in rows]


def _further_row(method: MethodFigures) -> list[str]:
    difference = method.corrupted_difference
    return [
        method.name,
        _plain(method.superclass_auroc),
        _range(method.superclass_auroc, 1, 3),
        _percent(method.corrupted_error, ""),
        _range(method.corrupted_error, 100, 1),
        "" if difference is None else f"{100 * difference.mean:+.2f}",
        _range(difference, 100, 2, sign="+"),
    ]


def numbers_of(cells: Sequence[CellFigures], costs: Mapping[str, RunCost]) -> list[list[Any]]:
    """All cells as one table of numbers, with the columns `NUMBERS`; a cell without a value is empty."""
    return [_numbers(cell, method, costs) for cell in cells for method in cell.methods]


def failures_of(cells: Sequence[CellFigures]) -> list[tuple[str, str, int, str]]:
    """Every run without a result: its cell, method, seed and reason."""
    return [
        (cell.cell.title, method.name, seed, reason)
        for cell in cells
        for method in cell.methods
        for seed, reason in method.failed.items()
    ]


def _row(method: MethodFigures, costs: Mapping[str, RunCost]) -> list[str]:
    count = len(method.runs)
    total = count + len(method.failed)
    return [
        method.name,
        str(count) if count == total else f"{count} of {total}",
        _percent(method.top1),
        _range(method.top1, 100, 1),
        _plain(method.nll),
        _range(method.nll, 1, 3),
        *_difference(method.difference),
        *_costs(method, costs),
    ]


def _percent(figures: OverSeeds | None, otherwise: str = "failed") -> str:
    if figures is None:
        return otherwise
    sd = "" if figures.sd is None else f" ± {100 * figures.sd:.2f}"
    return f"{100 * figures.mean:.2f}{sd} %"


def _plain(figures: OverSeeds | None) -> str:
    if figures is None:
        return ""
    return f"{figures.mean:.3f}" + ("" if figures.sd is None else f" ± {figures.sd:.3f}")


def _range(figures: OverSeeds | None, factor: float, digits: int, sign: str = "") -> str:
    if figures is None or figures.low is None or figures.high is None:
        return ""
    form = f"{sign}.{digits}f"
    return f"{factor * figures.low:{form}} to {factor * figures.high:{form}}"


def _difference(difference: Difference | None) -> list[str]:
    if difference is None:
        return [""] * 5
    top1, images = difference.top1, difference.top1_images
    seeds = _range(top1, 100, 2, sign="+")
    significant = sum(test.mid_p < SIGNIFICANT for test in difference.mcnemar)
    return [
        f"{100 * top1.mean:+.2f}",
        seeds,
        f"{100 * images.low:+.2f} to {100 * images.high:+.2f}",
        f"{difference.nll.mean:+.3f}",
        f"{significant} of {len(difference.mcnemar)} seeds",
    ]


def _nll_difference(difference: Difference | None) -> list[str]:
    if difference is None:
        return [""] * 3
    nll, images = difference.nll, difference.nll_images
    return [f"{nll.mean:+.3f}", _range(nll, 1, 3, sign="+"), f"{images.low:+.3f} to {images.high:+.3f}"]


def _costs(method: MethodFigures, costs: Mapping[str, RunCost]) -> list[str]:
    if not method.runs:
        return [""] * 4
    every = [costs[run.name] for run in method.runs]
    return [
        _millions(every[0].parameters),
        _millions(every[0].flops),
        f"{every[0].latency_ms:.2f}",
        f"{fmean(cost.seconds for cost in every):,.1f}",
    ]


def _millions(number: int) -> str:
    # Three digits, but never 1e+03, which is sorted as 1.
    millions = number / 1e6
    return f"{millions:.3g}" if millions < 999.5 else f"{millions:,.0f}"


def _numbers(cell: CellFigures, method: MethodFigures, costs: Mapping[str, RunCost]) -> list[Any]:
    values: list[Any] = [
        *(cell.cell.pair, cell.cell.data, cell.cell.epochs, method.name, method.control_of or ""),
        *(cell.baseline, cell.images, len(method.runs), len(method.failed)),
        *_fields(method.top1, "mean", "sd", "low", "high"),
        *_fields(method.nll, "mean", "sd", "low", "high"),
        *_fields(method.ece, "mean", "sd", "low", "high"),
        *_fields(method.half_error, "mean", "sd", "low", "high"),
        *_fields(method.superclass_auroc, "mean", "sd", "low", "high"),
        *_fields(method.corrupted_error, "mean", "sd", "low", "high"),
        *_fields(method.corrupted_difference, "mean", "low", "high"),
    ]
    difference = method.difference
    if difference is None:
        values += [""] * 10
    else:
        values += _fields(difference.top1, "mean", "low", "high")
        values += _fields(difference.top1_images, "low", "high")
        values += _fields(difference.nll, "mean", "low", "high")
        values += _fields(difference.nll_images, "low", "high")
    every = [costs[run.name] for run in method.runs]
    if not every:
        return [*values, "", "", "", ""]
    seconds = fmean(cost.seconds for cost in every)
    return [*values, every[0].parameters, every[0].flops, every[0].latency_ms, seconds]


def _fields(figures: OverSeeds | Interval | None, *names: str) -> list[float | str]:
    values = [None if figures is None else getattr(figures, name) for name in names]
    return ["" if value is None else value for value in values]
