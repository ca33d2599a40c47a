"""The files of a search: a recipe for each method, a page, Markdown and JSON; and the printed table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from richkd.core.files import write_atomically
from richkd.core.json_text import to_json
from richkd.core.pages import environment
from richkd.core.terminal import Terminal
from richkd.core.visible import counted, visible
from richkd.tune.results import Figures, SearchResult
from richkd.tune.study import TrialRecord

# How many trials the page shows for each method before the others are folded in.
SHOWN_TRIALS = 10
WORDS = {"top1": "top-1", "nll": "NLL"}


def write_pages(plan: str, results: Sequence[SearchResult], metric: str, images: int, out: Path) -> Path:
    """Write ``METHOD.yaml`` for each method, ``tune.html``, ``tune.md`` and ``tune.json``; returns the page.

    ``tune.json`` has no times, so equal searches give equal bytes.

    Args:
        plan: the plan's name.
        results: what was found.
        metric: the figure that was searched for.
        images: number of validation images.
        out: folder of the search.

    Raises:
        CheckpointError: a file cannot be written.
    """
    for result in results:
        if result.config is not None:
            text = _recipe(plan, result, metric, images)
            write_atomically(recipe_file(out, result), text.encode())
    values = {"plan": plan, "metric": WORDS[metric], "images": images, "tables": _tables(results, metric)}
    templates = environment("richkd.reporting")
    for name in ("tune.html", "tune.md"):
        write_atomically(out / name, templates.get_template(name).render(**values).encode())
    content = {"plan": plan, "metric": metric, "images": images, "methods": [_json(one) for one in results]}
    write_atomically(results_file(out), (to_json(content, indent=1) + "\n").encode())
    return out / "tune.html"


def results_file(out: Path) -> Path:
    """The file of the figures."""
    return out / "tune.json"


def recipe_file(out: Path, result: SearchResult) -> Path:
    """The recipe of a method."""
    return out / f"{result.method.name}.yaml"


def print_table(results: Sequence[SearchResult], metric: str, out: Path, console: Terminal) -> None:
    """Print what was found for each method, and what the settings of the plan reach."""
    table = Table(title="validation, longest runs", title_justify="left", box=None, pad_edge=False)
    for place, head in enumerate(
        ("method", "epochs", f"plan, {WORDS[metric]}", f"found, {WORDS[metric]}", "settings")
    ):
        table.add_column(head, justify="right" if place in (1, 2, 3) else "left", overflow="fold")
    for result in results:
        longest = result.halving.rungs[-1]
        first, best = (_shown(result, record, longest, metric) for record in (result.records[0], result.best))
        settings = "" if result.best is None else settings_text(result, result.best)
        table.add_row(visible(result.method.name), str(longest), first, best, visible(settings))
    console.print(table)
    for result in results:
        if result.best is None:
            console.print(f"no recipe: {result.method.name}: no long run finished", soft_wrap=True)
        else:
            console.print(f"recipe: {recipe_file(out, result)}", soft_wrap=True)


def settings_text(result: SearchResult, record: TrialRecord) -> str:
    """The searched settings of a trial in a line, such as ``optim.lr 0.02, objective.kd.temperature 4``."""
    names = [entry.name for entry in result.method.entries]
    return ", ".join(f"{name} {value}" for name, value in zip(names, _values(result, record), strict=True))


def _values(result: SearchResult, record: TrialRecord) -> list[str]:
    """The searched settings of a trial, each as text."""
    values = []
    for entry in result.method.entries:
        choice = record.point[entry.name]
        value = entry.settings(choice).get(entry.name, choice)
        values.append(f"{value:g}" if isinstance(value, float) else str(value))
    return values


def _shown(result: SearchResult, record: TrialRecord | None, epochs: int, metric: str) -> str:
    figures = None if record is None else result.figures.get((record.index, epochs))
    return "" if figures is None else _figure(figures.value(metric), metric)


def _figure(value: float | None, metric: str) -> str:
    if value is None:
        return ""
    return f"{value:.2%}" if metric == "top1" else f"{value:.4f}"


def _recipe(plan: str, result: SearchResult, metric: str, images: int) -> str:
    """The recipe that was found, headed by its evidence."""
    assert result.config is not None
    assert result.best is not None
    longest = result.halving.rungs[-1]
    best, first = (_evidence(result.figures.get((index, longest))) for index in (result.best.index, 0))
    lines = [
        f"Settings of '{result.method.name}', found by a search ({plan}).",
        "",
        f"  richkd distill -c {result.method.name}.yaml",
        "",
        f"{_effort(result)}; chosen by {WORDS[metric]} of {images:,} validation images.",
        f"After {counted(longest, 'epoch')}, trial {result.best.index}: {best}.",
    ]
    if result.best.index:
        lines.append(f"Trial 0 ({result.method.first_trial}), after {counted(longest, 'epoch')}: {first}.")
    else:
        lines.append(f"Trial 0 has {result.method.first_trial}: no other trial was better.")
    lines.append("These images chose the settings. Measure on test images, with other seeds: richkd compare.")
    head = "".join(f"# {visible(line)}".rstrip() + "\n" for line in lines)
    config = result.config.model_copy(update={"out": Path("runs") / result.method.name})
    return head + config.to_yaml()


def _effort(result: SearchResult) -> str:
    """What was trained, in words: trials with equal settings share their runs."""
    trials, distinct = len(result.records), len({record.first for record in result.records})
    failed = sum(record.state == "failed" for record in result.records)
    notes = [f"{distinct:,} distinct"] if distinct < trials else []
    notes += [f"{failed:,} failed"] if failed else []
    noted = f" ({', '.join(notes)})" if notes else ""
    return f"{counted(trials, 'trial')}{noted}, {counted(result.epochs, 'epoch')} of training"


def _evidence(figures: Figures | None) -> str:
    return "not measured" if figures is None else f"top-1 {figures.top1:.2%}, NLL {figures.nll:.4f}"


def _tables(results: Sequence[SearchResult], metric: str) -> list[dict[str, Any]]:
    return [
        {
            "name": result.method.name,
            "first_trial": result.method.first_trial,
            "settings": [entry.name for entry in result.method.entries],
            "ladder": result.halving.in_words,
            "rungs": result.halving.rungs,
            "best": result.best,
            "rows": [_row(result, record, metric) for record in _ordered(result, metric)],
            "shown": SHOWN_TRIALS,
            "worth": [
                (entry.name, one.choice, one.trials, _figure(one.best, metric), _figure(one.middle, metric))
                for entry in result.method.entries
                for one in result.worth(entry, maximize=metric == "top1")
            ],
        }
        for result in results
    ]


def _ordered(result: SearchResult, metric: str) -> list[TrialRecord]:
    """Trials with the longest runs first, and the best first among these."""
    sign = -1 if metric == "top1" else 1

    def key(record: TrialRecord) -> tuple[float, ...]:
        last = max(record.values, default=0)
        return (-last, sign * record.values[last] if last else 0.0, record.index)

    return sorted(result.records, key=key)


def _row(result: SearchResult, record: TrialRecord, metric: str) -> dict[str, Any]:
    words = {"finished": "", "stopped": "others were better", "failed": record.reason, "running": ""}
    return {
        "index": record.index,
        "settings": _values(result, record),
        "figures": [_figure(record.values.get(epochs), metric) for epochs in result.halving.rungs],
        "note": words[record.state],
        "is_best": result.best is not None and record.index == result.best.index,
    }


def _json(result: SearchResult) -> Mapping[str, Any]:
    return {
        "name": result.method.name,
        "rungs": result.halving.rungs,
        "brackets": result.halving.brackets,
        "best": None if result.best is None else result.best.index,
        "trials": [
            {
                "index": record.index,
                "point": record.point,
                "state": record.state,
                "reason": record.reason,
                "runs": [
                    {"epochs": epochs, "top1": figures.top1, "nll": figures.nll}
                    for (index, epochs), figures in sorted(result.figures.items())
                    if index == record.index
                ],
            }
            for record in result.records
        ],
    }
