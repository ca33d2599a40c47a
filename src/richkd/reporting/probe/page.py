"""A probe as one page that opens anywhere: no script, no network, charts as SVG."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from richkd.core.files import write_atomically
from richkd.core.pages import environment
from richkd.evaluate.model_report import CERTAIN
from richkd.metrics.calibration import Reliability
from richkd.metrics.confidence import COVERAGES, State
from richkd.reporting.probe.figures import MATCHED, TeacherFigures
from richkd.reporting.probe.probe import CLIP, FUSED, TEACHER, Probe
from richkd.reporting.probe.verdict import NO_SIGNAL, explanation, headline, warnings

SHOWN_CLASSES, SHOWN_CONFUSIONS = 8, 10
KINDS = {TEACHER: "teacher", CLIP: "clip", FUSED: "fused"}
STATES = {
    State.CORRECT_CERTAIN: "right, certain",
    State.CORRECT_UNCERTAIN: "right, unsure",
    State.WRONG_CERTAIN: "wrong, certain",
    State.WRONG_UNCERTAIN: "wrong, unsure",
}


def write_probe(result: Probe, folder: Path, data: str) -> Path:
    """Write ``probe.html`` and ``probe.json`` into a folder; returns the page's path.

    Args:
        data: what the data are called in the page's head.

    Raises:
        CheckpointError: the folder cannot be written.
    """
    verdict = {"headline": headline(result), "explanation": explanation(result), "warnings": warnings(result)}
    figures = json.dumps({"verdict": verdict} | result.to_dict(), indent=2, ensure_ascii=False)
    write_atomically(folder / "probe.json", f"{figures}\n".encode())
    page = folder / "probe.html"
    write_atomically(page, render(result, data).encode())
    return page


def render(result: Probe, data: str) -> str:
    """The page's HTML."""
    return (
        environment("richkd.reporting")
        .get_template("probe.html")
        .render(
            result=result,
            data=data,
            headline=headline(result),
            explanation=explanation(result),
            shaky=warnings(result),
            **_teachers(result),
            **alpha_curves(result),
            **_right(result),
            diagrams=[(name, KINDS[name], bins_of(bins)) for name, bins in result.reliability.items()],
            certain=CERTAIN,
            coverages=COVERAGES,
            matched=MATCHED,
            states=list(STATES.values()),
            moves=_moves(result),
            helped=[gain for gain in result.classes[:SHOWN_CLASSES] if gain.fused > gain.teacher],
            hurt=[gain for gain in result.classes[::-1][:SHOWN_CLASSES] if gain.fused < gain.teacher],
            confusions=result.confusions[:SHOWN_CONFUSIONS],
            prompts=sorted(result.prompts.rows, key=lambda row: -row[1]) if result.prompts else [],
            nothing=NO_SIGNAL,
        )
    )


def teacher_rows(result: Probe) -> list[tuple[str, TeacherFigures, str]]:
    """Every teacher and every fusion, as it is called, with its color; the default fusion comes last."""
    rows = [(e.name, e, KINDS.get(e.name, "teacher")) for e in result.teachers]
    return rows + [(f"fused, {e.name}", e, "fused" if e is result.fused else "other") for e in result.fusions]


def _teachers(result: Probe) -> dict[str, Any]:
    rows = teacher_rows(result)
    bounds = [(e.intervals["top1"].low, e.intervals["top1"].high) for _, e, _ in rows]
    bars = [
        (name, teacher.metrics.top1, low, high, kind)
        for (name, teacher, kind), (low, high) in zip(rows, bounds, strict=True)
    ]
    return {"teachers": rows, "accuracy": bars}


def alpha_curves(result: Probe) -> dict[str, Any]:
    """Accuracy and NLL over α as points, and the range of each axis."""
    curves: dict[str, Any] = {"best": max(result.curve, key=lambda point: point[1])}
    for name, column in (("top1", 1), ("nll", 2)):
        points = [(point[0], point[column]) for point in result.curve]
        lowest, highest = min(y for _, y in points), max(y for _, y in points)
        margin = 0.05 * (highest - lowest) or 0.01
        curves |= {f"{name}_curve": points, f"{name}_range": (lowest - margin, highest + margin)}
    return curves


def _right(result: Probe) -> dict[str, Any]:
    words = [
        ("fused", result.both, 0.9, "both right"),
        ("teacher", result.teacher_only, 0.9, "only the teacher"),
        ("clip", result.clip_only, 0.9, "only CLIP"),
        ("other", result.neither, 0.6, "neither"),
    ]
    return {"right_words": words, "right": [part[:3] for part in words]}


def bins_of(bins: Reliability) -> list[tuple[float, float, int]]:
    """Confidence, accuracy and count of each bin that holds images."""
    return [
        (confidence, accuracy, count)
        for confidence, accuracy, count in zip(bins.confidence, bins.accuracy, bins.count, strict=True)
        if confidence is not None and accuracy is not None
    ]


def _moves(result: Probe) -> list[tuple[str, list[tuple[str, float, float]]]]:
    """Each row's state and its cells: color, strength of the color in percent, number of images."""
    rows = []
    for before, counts in zip(State, result.moves.counts, strict=True):
        cells = []
        for after, count in zip(State, counts, strict=True):
            kind = "fused" if after < before else "wrong" if after > before else "other"
            cells.append((kind, round(55 * (count / result.images) ** 0.5, 1), count))
        rows.append((STATES[before], cells))
    return rows
