"""A probe's findings as text: the verdict first, then what it rests on."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from richkd.reporting.probe.figures import ClassGain
from richkd.reporting.probe.probe import Probe
from richkd.reporting.probe.verdict import NO_SIGNAL, explanation, headline, warnings

SHOWN_CLASSES = 5


def print_probe(result: Probe, console: Console) -> None:
    """Print verdict, figures, and what may be wrong, in this order."""

    def log(line: str) -> None:
        console.print(line, markup=False, soft_wrap=True)

    log(f"\n{headline(result)} {explanation(result)}\n")
    console.print(_teachers(result))
    log(
        f"\nRight: both {result.both:.1%}, the teacher only {result.teacher_only:.1%}, "
        f"CLIP only {result.clip_only:.1%}, neither {result.neither:.1%}: choosing the right one of the two "
        f"would be right on {1 - result.neither:.1%}."
    )
    best = max(result.curve, key=lambda point: point[1])
    log(
        f"With calibrated teachers mixed by α, accuracy is highest at α {best[0]:.2f}: {best[1]:.1%} "
        f"({result.curve[0][1]:.1%} at 0, CLIP alone; {result.curve[-1][1]:.1%} at 1)."
    )
    console.print(_mixings(result))
    for name, signal in result.signals.items():
        note = ", which is numerically nothing" if signal.nats < NO_SIGNAL else ""
        log(f"{name}: {signal.nats:.2g} nats of the student's target are not the teacher's{note}")
    if result.prompts is not None:
        template, top1 = max(result.prompts.rows, key=lambda row: row[1])
        together, selected = len(result.prompts.rows), len(result.prompts.best)
        log(
            f"\nprompts: all {together} together {result.prompts.all_top1:.1%}, the best alone {top1:.1%} "
            f"('{template}'), the best set of {selected} {result.prompts.best_top1:.1%}"
        )
    helped = [gain for gain in result.classes[:SHOWN_CLASSES] if gain.fused > gain.teacher]
    hurt = [gain for gain in result.classes[::-1][:SHOWN_CLASSES] if gain.fused < gain.teacher]
    log(f"\nhelped most: {_listed(helped)}")
    log(f"hurt most: {_listed(hurt)}")
    for warning in warnings(result):
        log(f"warning: {warning}")


def _teachers(result: Probe) -> Table:
    table = Table(title=f"{result.images:,} images of {result.split}", title_justify="left", box=None)
    table.add_column("")
    for column in ("accuracy", "95 %", "NLL", "ECE", "NLL, calibrated"):
        table.add_column(column, justify="right", no_wrap=True)
    rows = [(teacher.name, teacher) for teacher in result.teachers]
    rows += [(f"fused, {teacher.name}", teacher) for teacher in result.fusions]
    for name, teacher in rows:
        top1 = teacher.intervals["top1"]
        table.add_row(
            name,
            f"{teacher.metrics.top1:.2%}",
            f"{100 * top1.low:.1f}–{100 * top1.high:.1f}",
            f"{teacher.metrics.nll:.3f}",
            f"{teacher.metrics.ece:.4f}",
            f"{teacher.calibrated.nll:.3f}",
        )
    return table


def _mixings(result: Probe) -> Table:
    table = Table(title="\nways of mixing, each judged on images it was not fitted on", box=None)
    table.title_justify = "left"
    for column in ("", "NLL", "behind the best", "standard error"):
        table.add_column(column, justify="left" if not column else "right")
    for candidate in result.choice.candidates:
        selected = "  ← default" if candidate.name == result.choice.name else ""
        numbers = (candidate.nll, candidate.behind, candidate.error)
        table.add_row(candidate.name + selected, *(f"{number:.4f}" for number in numbers))
    return table


def _listed(gains: list[ClassGain]) -> str:
    return ", ".join(f"{g.name} {g.teacher:.0%} → {g.fused:.0%} of {g.images}" for g in gains) or "none"
