"""The files of a comparison: a page, Markdown, LaTeX, CSV and JSON; and the tables on the terminal."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from richkd.compare.costs import RunCost
from richkd.compare.differences import difference_charts
from richkd.compare.first_figures import FIRST_HEADS, FirstFigures, first_failures, first_rows
from richkd.compare.pareto import Chart, charts_of
from richkd.compare.results import CellFigures, results_file
from richkd.compare.table import (
    CONFIDENCE,
    HEADS,
    NUMBERS,
    confidence_rows,
    failures_of,
    further_table,
    numbers_of,
    rows_of,
)
from richkd.core.files import write_atomically
from richkd.core.json_text import to_json
from richkd.core.latex import latex
from richkd.core.pages import environment
from richkd.core.spreadsheet import csv_table
from richkd.core.terminal import Terminal

# Columns of the tables in Markdown and LaTeX, which are narrow.
NARROW = (*range(11), 14)
NOTE = (
    "Test split, last epoch, mean ± standard deviation over seeds of training. NLL is calibrated. "
    "Differences are to {baseline}, by seed. Intervals over seeds are t-intervals (95%); the interval over "
    "images is a paired bootstrap of the mean over seeds."
)
CONFIDENCE_NOTE = (
    "NLL and the expected calibration error (ECE) are calibrated by the temperature that was fitted on "
    "held-out images. The last columns do not depend on a temperature."
)
FURTHER_NOTE = (
    "Superclass AUROC says how well the probabilities of an image's wrong classes distinguish those of "
    "its superclass from others; 0.5 is chance. Corrupted images: mean error rate over all corruptions and "
    "severities."
)
NUMBER = re.compile(r"[+-]?\d[\d,]*(\.\d+)?")
# Share of the range that is free at both ends of an axis.
MARGIN = 0.08


def write_pages(
    plan: str,
    cells: Sequence[CellFigures],
    costs: Mapping[str, RunCost],
    out: Path,
    warnings: Sequence[str] = (),
    first: Sequence[FirstFigures] = (),
) -> Path:
    """Write ``compare.html``, ``.md``, ``.tex``, ``.csv`` and ``.json``; returns the page.

    ``compare.json`` has no times, so equal runs give equal bytes.

    Raises:
        CheckpointError: a file cannot be written.
    """
    values = _context(plan, cells, costs, warnings, first)
    templates = environment("richkd.reporting")
    for name in ("compare.html", "compare.md"):
        write_atomically(out / name, templates.get_template(name).render(**values).encode())
    write_atomically(out / "compare.tex", _latex(cells, costs).encode())
    table = csv_table(NUMBERS, numbers_of(cells, costs))
    write_atomically(out / "compare.csv", table.encode())
    write_atomically(results_file(out), (to_json(_json(plan, cells, costs, first), indent=1) + "\n").encode())
    return out / "compare.html"


def print_tables(
    cells: Sequence[CellFigures],
    costs: Mapping[str, RunCost],
    console: Terminal,
    first: Sequence[FirstFigures] = (),
) -> None:
    """Print the table of the first runs and that of each cell, and the runs without a result."""
    if first:
        console.print(_table("Teachers", FIRST_HEADS, first_rows(first)))
        console.print()
    for cell in cells:
        title = f"{cell.cell.title}, {cell.images:,} test images, differences to {cell.baseline}"
        console.print(_table(title, HEADS, rows_of(cell, costs)))
        console.print()
        console.print(_table(f"{cell.cell.title}, confidence", CONFIDENCE, confidence_rows(cell)))
        console.print()
        if further := further_table(cell):
            console.print(_table(f"{cell.cell.title}, beyond accuracy", *further))
            console.print()
    for name, reason in first_failures(first):
        console.print(f"no result: {name}: {reason}", soft_wrap=True)
    for title, method, seed, reason in failures_of(cells):
        console.print(f"no result: {method}, seed {seed} ({title}): {reason}", soft_wrap=True)


def _table(title: str, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for place, head in enumerate(heads):
        table.add_column(head, justify="right" if place else "left", overflow="fold")
    for row in rows:
        table.add_row(*row)
    return table


def _context(
    plan: str,
    cells: Sequence[CellFigures],
    costs: Mapping[str, RunCost],
    warnings: Sequence[str],
    first: Sequence[FirstFigures],
) -> dict[str, Any]:
    pairs = list(dict.fromkeys(cell.cell.pair for cell in cells))
    return {
        "plan": plan,
        "runs": sum(len(method.runs) for cell in cells for method in cell.methods),
        "heads": HEADS,
        "narrow": NARROW,
        "tables": [
            (
                cell,
                rows_of(cell, costs),
                confidence_rows(cell),
                further_table(cell),
                difference_charts(cell),
            )
            for cell in cells
        ],
        "confidence_heads": CONFIDENCE,
        "confidence_note": CONFIDENCE_NOTE,
        "further_note": FURTHER_NOTE,
        "sort_key": sort_key,
        "notes": [NOTE.format(baseline=cell.baseline) for cell in cells],
        "failures": failures_of(cells),
        "first_heads": FIRST_HEADS,
        "first_rows": first_rows(first),
        "first_failures": first_failures(first),
        "warnings": warnings,
        "charts": [_drawn(chart, pairs) for chart in charts_of(cells, costs)],
        "pairs": [(_kind(pairs, pair), pair) for pair in pairs],
        "numbers": NUMBERS,
        "number_rows": numbers_of(cells, costs),
    }


def sort_key(text: str) -> float | str:
    """What a column is sorted by: the number at the start of a cell, or its text.

    Example:
        >>> sort_key("95.83 ± 5.89 %"), sort_key("1,204.5"), sort_key("kd"), sort_key("-2.5 to +1.0")
        (95.83, 1204.5, 'kd', -2.5)
    """
    number = NUMBER.match(text)
    return float(number[0].replace(",", "")) if number else text


def _kind(pairs: Sequence[str], pair: str) -> str:
    """The class of the style sheet that gives the color of a pair."""
    place = pairs.index(pair)
    return f"s{place}" if place < 4 else "other"


def _drawn(chart: Chart, pairs: Sequence[str]) -> dict[str, Any]:
    """A chart as the template needs it."""
    costs, accuracies = [p.cost for p in chart.points], [p.top1 for p in chart.points]
    front = sorted((p.cost, p.top1) for p in chart.points if p.best)
    return {
        "title": chart.title,
        "cost": chart.cost,
        "points": [(_kind(pairs, p.pair), p.cost, p.top1, p.method, p.pair, p.best) for p in chart.points],
        "front": front,
        "xrange": _axis(costs),
        "yrange": _axis(accuracies),
    }


def _axis(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    margin = MARGIN * (high - low) or 0.1 * abs(high) or 1.0
    return low - margin, high + margin


def _latex(cells: Sequence[CellFigures], costs: Mapping[str, RunCost]) -> str:
    lines = ["% Needs the package booktabs."]
    for cell in cells:
        rows = [[row[place] for place in NARROW] for row in rows_of(cell, costs)]
        note = NOTE.format(baseline=cell.baseline)
        lines += _latex_table(f"{cell.cell.title}. {note}", [HEADS[place] for place in NARROW], rows)
        lines += _latex_table(f"{cell.cell.title}. {CONFIDENCE_NOTE}", CONFIDENCE, confidence_rows(cell))
        if further := further_table(cell):
            lines += _latex_table(f"{cell.cell.title}. {FURTHER_NOTE}", *further)
    lines += [
        f"% No result: {latex(f'{method}, seed {seed} ({title}): {reason}')}"
        for title, method, seed, reason in failures_of(cells)
    ]
    return "\n".join(lines) + "\n"


def _latex_table(caption: str, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{latex(caption)}}}",
        rf"\begin{{tabular}}{{l{'r' * (len(heads) - 1)}}}",
        r"\toprule",
        _latex_row(heads),
        r"\midrule",
        *map(_latex_row, rows),
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table}",
    ]


def _latex_row(cells: Sequence[str]) -> str:
    signs = {"±": r"$\pm$", "Δ": r"$\Delta$"}
    # The first cell is a name.
    texts = [latex(cell) for cell in cells]
    for sign, command in signs.items():
        texts = [texts[0], *(text.replace(sign, command) for text in texts[1:])]
    return " & ".join(texts) + r" \\"


def _json(
    plan: str, cells: Sequence[CellFigures], costs: Mapping[str, RunCost], first: Sequence[FirstFigures]
) -> dict[str, Any]:
    content = []
    for cell in cells:
        entry = cell.to_dict()
        for method in entry["methods"]:
            for run in method["runs"]:
                cost = costs[run["name"]]
                run |= {"parameters": cost.parameters, "flops": cost.flops}
        content.append(entry)
    return {"plan": plan, "first": [one.to_dict() for one in first], "cells": content}
