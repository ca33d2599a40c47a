"""A probe as text on the terminal: the verdict first, then the metrics behind it."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table

from richkd.core.terminal import Terminal
from richkd.reporting.probe.figures import ClassGain
from richkd.reporting.probe.result import Probe
from richkd.reporting.probe.verdict import NO_SIGNAL, explanation, headline, warnings
from richkd.teachers.clip.prompt_weights import PromptTable

SHOWN_CLASSES = 5


def print_probe(result: Probe, console: Terminal) -> None:
    """Print the verdict, the metrics and the warnings, in this order."""

    def log(line: str) -> None:
        console.print(line, soft_wrap=True)

    def paragraph(line: str) -> None:
        console.print()
        log(line)

    paragraph(f"{headline(result)} {explanation(result)}")
    console.print()
    console.print(_teachers(result))
    paragraph(_complementarity(result))
    log(_best_alpha(result))
    console.print()
    console.print(_mixings(result))
    log(f"selected: the first below {result.choice.threshold:.4f}, the lowest NLL plus its standard error")
    paragraph(
        "target shift on training views (KL divergence of the fused target from the teacher's outputs):"
    )
    for name, signal in result.signals.items():
        note = " (negligible: the student learns nothing from CLIP)" if signal.nats < NO_SIGNAL else ""
        log(f"  {name}: {signal.nats:.2g} nats{note}")
    if result.prompts is not None:
        paragraph(_prompts(result.prompts))
    gains = [gain for gain in result.classes[:SHOWN_CLASSES] if gain.fused > gain.teacher]
    losses = [gain for gain in result.classes[::-1][:SHOWN_CLASSES] if gain.fused < gain.teacher]
    paragraph(f"largest gains in accuracy: {list_gains(gains)}")
    log(f"largest losses in accuracy: {list_gains(losses)}")
    for warning in warnings(result):
        log(f"warning: {warning}")


def list_gains(gains: Sequence[ClassGain]) -> str:
    """Class names with their accuracy before and after fusing, separated by commas.

    Example:
        >>> list_gains([ClassGain("cat", images=8, teacher=0.5, fused=0.75, p=0.3)])
        'cat 50% → 75% (8 images)'
        >>> list_gains([])
        'none'
    """
    return ", ".join(f"{g.name} {g.teacher:.0%} → {g.fused:.0%} ({g.images} images)" for g in gains) or "none"


def _teachers(result: Probe) -> Table:
    table = Table(title=f"{result.images:,} images of {result.split}", title_justify="left", box=None)
    table.add_column("")
    for column in ("accuracy", "95% CI", "NLL", "ECE", "NLL, calibrated"):
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


def _complementarity(result: Probe) -> str:
    return (
        f"Correct predictions: both {result.both:.1%}, teacher only {result.teacher_only:.1%}, CLIP only "
        f"{result.clip_only:.1%}, neither {result.neither:.1%}. If the correct one of the two were always "
        f"selected, the accuracy would be {1 - result.neither:.1%}."
    )


def _best_alpha(result: Probe) -> str:
    alpha, top1, _ = max(result.curve, key=lambda point: point[1])
    return (
        f"Calibrated teachers mixed with the weight α for the teacher: the highest accuracy is {top1:.1%} at "
        f"α = {alpha:.2f} (CLIP alone, α = 0: {result.curve[0][1]:.1%}; teacher alone, α = 1: "
        f"{result.curve[-1][1]:.1%})."
    )


def _mixings(result: Probe) -> Table:
    table = Table(title="ways of mixing (cross-fitted)", box=None)
    table.title_justify = "left"
    for column in ("", "NLL", "standard error"):
        table.add_column(column, justify="left" if not column else "right")
    for candidate in result.choice.candidates:
        selected = "  ← default" if candidate.name == result.choice.name else ""
        numbers = (candidate.nll, candidate.error)
        table.add_row(candidate.name + selected, *(f"{number:.4f}" for number in numbers))
    return table


def _prompts(prompts: PromptTable) -> str:
    template, top1 = max(prompts.rows, key=lambda row: row[1])
    return (
        f"accuracy of CLIP by prompts: all {len(prompts.rows)} templates {prompts.all_top1:.1%}, best single "
        f"template {top1:.1%} ('{template}'), best set of templates (size {len(prompts.best)}, "
        f"cross-fitted) {prompts.best_top1:.1%}"
    )
