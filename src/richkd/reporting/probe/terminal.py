"""A probe's findings as text: the verdict first, then what it rests on."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from richkd.reporting.probe.figures import ClassGain
from richkd.reporting.probe.probe import Probe
from richkd.reporting.probe.verdict import NO_SIGNAL, explanation, headline, warnings

SHOWN_CLASSES = 5


def print_probe(found: Probe, console: Console) -> None:
    """Print verdict, figures, and what may be wrong, in this order."""

    def say(line: str) -> None:
        console.print(line, markup=False, soft_wrap=True)

    say(f"\n{headline(found)} {explanation(found)}\n")
    console.print(_experts(found))
    say(
        f"\nRight: both {found.both:.1%}, the teacher only {found.teacher_only:.1%}, "
        f"CLIP only {found.clip_only:.1%}, neither {found.neither:.1%}: choosing the right one of the two "
        f"would be right on {1 - found.neither:.1%}."
    )
    best = max(found.curve, key=lambda point: point[1])
    say(
        f"With both experts calibrated and mixed by α, accuracy is highest at α {best[0]:.2f}: {best[1]:.1%} "
        f"({found.curve[0][1]:.1%} at 0, CLIP alone; {found.curve[-1][1]:.1%} at 1)."
    )
    console.print(_mixings(found))
    for name, signal in found.signals.items():
        note = ", which is numerically nothing" if signal.nats < NO_SIGNAL else ""
        say(f"{name}: {signal.nats:.2g} nats of the student's target are not the teacher's{note}")
    if found.prompts is not None:
        template, top1 = max(found.prompts.rows, key=lambda row: row[1])
        together, chosen = len(found.prompts.rows), len(found.prompts.best)
        say(
            f"\nprompts: all {together} together {found.prompts.all_top1:.1%}, the best alone {top1:.1%} "
            f"('{template}'), the best set of {chosen} {found.prompts.best_top1:.1%}"
        )
    helped = [gain for gain in found.classes[:SHOWN_CLASSES] if gain.fused > gain.teacher]
    hurt = [gain for gain in found.classes[::-1][:SHOWN_CLASSES] if gain.fused < gain.teacher]
    say(f"\nhelped most: {_listed(helped)}")
    say(f"hurt most: {_listed(hurt)}")
    for warning in warnings(found):
        say(f"warning: {warning}")


def _experts(found: Probe) -> Table:
    table = Table(title=f"{found.images:,} images of {found.split}", title_justify="left", box=None)
    table.add_column("")
    for column in ("accuracy", "95 %", "NLL", "ECE", "NLL, calibrated"):
        table.add_column(column, justify="right", no_wrap=True)
    rows = [(expert.name, expert) for expert in found.experts]
    rows += [(f"fused, {expert.name}", expert) for expert in found.fusions]
    for name, expert in rows:
        top1 = expert.intervals["top1"]
        table.add_row(
            name,
            f"{expert.metrics.top1:.2%}",
            f"{100 * top1.low:.1f}–{100 * top1.high:.1f}",
            f"{expert.metrics.nll:.3f}",
            f"{expert.metrics.ece:.4f}",
            f"{expert.calibrated.nll:.3f}",
        )
    return table


def _mixings(found: Probe) -> Table:
    table = Table(title="\nways of mixing, each judged on images it was not fitted on", box=None)
    table.title_justify = "left"
    for column in ("", "NLL", "behind the best", "standard error"):
        table.add_column(column, justify="left" if not column else "right")
    for candidate in found.choice.candidates:
        chosen = "  ← default" if candidate.name == found.choice.name else ""
        numbers = (candidate.nll, candidate.behind, candidate.error)
        table.add_row(candidate.name + chosen, *(f"{number:.4f}" for number in numbers))
    return table


def _listed(gains: list[ClassGain]) -> str:
    return ", ".join(f"{g.name} {g.teacher:.0%} → {g.fused:.0%} of {g.images}" for g in gains) or "none"
