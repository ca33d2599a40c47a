"""A probe as a single HTML page without scripts or external files; the charts are SVG."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from richkd.core.files import write_atomically
from richkd.core.json_text import to_json
from richkd.core.pages import environment
from richkd.evaluate.model_report import CERTAIN
from richkd.metrics.calibration import Reliability
from richkd.metrics.confidence import COVERAGES, State
from richkd.pipeline.roles import FUSED, TEACHER
from richkd.reporting.probe.figures import MATCHED, TeacherFigures
from richkd.reporting.probe.probe import CLIP
from richkd.reporting.probe.result import Probe
from richkd.reporting.probe.verdict import NO_SIGNAL, Outcome, decide_outcome, explanation, headline, warnings

SHOWN_CLASSES, SHOWN_CONFUSIONS = 8, 10
# Classes of the style sheet, which set the colors.
KINDS = {TEACHER: "teacher", CLIP: "clip", FUSED: "fused"}
# From the best to the worst: an error is worse if it is confident.
RANKING = (
    State.CORRECT_CERTAIN,
    State.CORRECT_UNCERTAIN,
    State.WRONG_UNCERTAIN,
    State.WRONG_CERTAIN,
)
STATES = {
    State.CORRECT_CERTAIN: "correct, confident",
    State.CORRECT_UNCERTAIN: "correct, not confident",
    State.WRONG_CERTAIN: "incorrect, confident",
    State.WRONG_UNCERTAIN: "incorrect, not confident",
}


def write_probe(result: Probe, folder: str | Path, data: str) -> Path:
    """Write ``probe.html`` and ``probe.json`` into a folder.

    Args:
        result: the probe.
        folder: the folder; it is created if necessary.
        data: name of the data, shown at the top of the page.

    Returns:
        The path of the page.

    Raises:
        CheckpointError: the folder cannot be written.
    """
    folder = Path(folder)
    write_atomically(folder / "probe.json", f"{to_json(numbers(result), indent=2)}\n".encode())
    page = folder / "probe.html"
    write_atomically(page, render(result, data).encode())
    return page


def numbers(result: Probe) -> dict[str, Any]:
    """The verdict and all figures of a probe, as they are in ``probe.json``."""
    verdict = {
        "outcome": decide_outcome(result).value,
        "headline": headline(result),
        "explanation": explanation(result),
        "warnings": warnings(result),
    }
    return {"verdict": verdict} | result.to_dict()


def render(result: Probe, data: str) -> str:
    """The HTML text of the page; ``data`` is the name of the data."""
    return (
        environment("richkd.reporting")
        .get_template("probe.html")
        .render(
            result=result,
            data=data,
            headline=headline(result),
            recommended=decide_outcome(result) is Outcome.YES,
            explanation=explanation(result),
            warnings=warnings(result),
            **_teachers(result),
            **alpha_curves(result),
            **_correct_shares(result),
            diagrams=[(name, KINDS[name], bins_of(bins)) for name, bins in result.reliability.items()],
            certain=CERTAIN,
            coverages=COVERAGES,
            matched=MATCHED,
            states=list(STATES.values()),
            moves=_moves(result),
            gains=[gain for gain in result.classes[:SHOWN_CLASSES] if gain.fused > gain.teacher],
            losses=[gain for gain in result.classes[::-1][:SHOWN_CLASSES] if gain.fused < gain.teacher],
            confusions=result.confusions[:SHOWN_CONFUSIONS],
            prompts=sorted(result.prompts.rows, key=lambda row: -row[1]) if result.prompts else [],
            no_signal=NO_SIGNAL,
        )
    )


def teacher_rows(result: Probe) -> list[tuple[str, TeacherFigures, str]]:
    """Name, metrics and color class of each teacher and each fusion; the default fusion is the last one.

    Example:
        >>> from types import SimpleNamespace
        >>> clip, default = SimpleNamespace(name="CLIP"), SimpleNamespace(name="default")
        >>> probe = SimpleNamespace(teachers=[clip], fusions=[default], fused=default)
        >>> [(name, kind) for name, _, kind in teacher_rows(probe)]
        [('CLIP', 'clip'), ('fused, default', 'fused')]
    """
    teachers = [(one.name, one, KINDS.get(one.name, "teacher")) for one in result.teachers]
    fusions = [
        (f"fused, {one.name}", one, "fused" if one is result.fused else "other") for one in result.fusions
    ]
    return teachers + fusions


def _teachers(result: Probe) -> dict[str, Any]:
    rows = teacher_rows(result)
    intervals = [teacher.intervals["top1"] for _, teacher, _ in rows]
    bars = [
        (name, teacher.metrics.top1, top1.low, top1.high, kind)
        for (name, teacher, kind), top1 in zip(rows, intervals, strict=True)
    ]
    return {"teachers": rows, "accuracy": bars}


def alpha_curves(result: Probe) -> dict[str, Any]:
    """Template values of the curves of accuracy and NLL over α.

    Returns:
        ``best`` (α, accuracy, NLL) with the highest accuracy; and for ``top1`` and ``nll`` the points
        ``…_curve`` and the range of the vertical axis ``…_range``, 5% wider than the values.

    Example:
        >>> from types import SimpleNamespace
        >>> curves = alpha_curves(SimpleNamespace(curve=[(0.0, 0.5, 1.0), (1.0, 0.7, 1.0)]))
        >>> curves["best"], curves["top1_curve"]
        ((1.0, 0.7, 1.0), [(0.0, 0.5), (1.0, 0.7)])
        >>> curves["nll_range"]  # a constant curve
        (0.99, 1.01)
    """
    curves: dict[str, Any] = {"best": max(result.curve, key=lambda point: point[1])}
    for name, column in (("top1", 1), ("nll", 2)):
        points = [(point[0], point[column]) for point in result.curve]
        lowest, highest = min(y for _, y in points), max(y for _, y in points)
        margin = 0.05 * (highest - lowest) or 0.01
        curves |= {f"{name}_curve": points, f"{name}_range": (lowest - margin, highest + margin)}
    return curves


def _correct_shares(result: Probe) -> dict[str, Any]:
    """Color, fraction, opacity and label of each part of the bar "which of the two is correct"."""
    parts = [
        ("fused", result.both, 0.9, "both correct"),
        ("teacher", result.teacher_only, 0.9, "only the teacher"),
        ("clip", result.clip_only, 0.9, "only CLIP"),
        ("other", result.neither, 0.6, "neither"),
    ]
    return {"correct_labels": parts, "correct": [part[:3] for part in parts]}


def bins_of(bins: Reliability) -> list[tuple[float, float, int]]:
    """Confidence, accuracy and number of images of each bin that is not empty.

    Example:
        >>> import torch
        >>> from richkd.metrics.calibration import measure_reliability
        >>> bins_of(measure_reliability(torch.tensor([[0.75, 0.25], [0.75, 0.25]]), torch.tensor([0, 1])))
        [(0.75, 0.5, 2)]
    """
    return [
        (confidence, accuracy, count)
        for confidence, accuracy, count in zip(bins.confidence, bins.accuracy, bins.count, strict=True)
        if confidence is not None and accuracy is not None
    ]


def _moves(result: Probe) -> list[tuple[str, list[tuple[str, float, float]]]]:
    """State and cells of each row; a cell is color, strength of the color in percent, number of images."""
    rows = []
    for before, counts in zip(State, result.moves.counts, strict=True):
        cells = []
        for after, count in zip(State, counts, strict=True):
            change = RANKING.index(after) - RANKING.index(before)
            kind = "fused" if change < 0 else "wrong" if change > 0 else "other"
            cells.append((kind, round(55 * (count / result.images) ** 0.5, 1), count))
        rows.append((STATES[before], cells))
    return rows
