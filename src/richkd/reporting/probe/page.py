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
from richkd.reporting.probe.figures import MATCHED, Expert
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


def write_probe(found: Probe, folder: Path, data: str) -> Path:
    """Write ``probe.html`` and ``probe.json`` into a folder; returns the page's path.

    Args:
        data: what the data are called in the page's head.

    Raises:
        CheckpointError: the folder cannot be written.
    """
    verdict = {"headline": headline(found), "explanation": explanation(found), "warnings": warnings(found)}
    figures = json.dumps({"verdict": verdict} | found.to_dict(), indent=2, ensure_ascii=False)
    write_atomically(folder / "probe.json", f"{figures}\n".encode())
    page = folder / "probe.html"
    write_atomically(page, render(found, data).encode())
    return page


def render(found: Probe, data: str) -> str:
    """The page's HTML."""
    return (
        environment("richkd.reporting")
        .get_template("probe.html")
        .render(
            found=found,
            data=data,
            headline=headline(found),
            explanation=explanation(found),
            shaky=warnings(found),
            **_experts(found),
            **alpha_curves(found),
            **_right(found),
            diagrams=[(name, KINDS[name], bins_of(bins)) for name, bins in found.reliability.items()],
            certain=CERTAIN,
            coverages=COVERAGES,
            matched=MATCHED,
            states=list(STATES.values()),
            moves=_moves(found),
            helped=[gain for gain in found.classes[:SHOWN_CLASSES] if gain.fused > gain.teacher],
            hurt=[gain for gain in found.classes[::-1][:SHOWN_CLASSES] if gain.fused < gain.teacher],
            confusions=found.confusions[:SHOWN_CONFUSIONS],
            prompts=sorted(found.prompts.rows, key=lambda row: -row[1]) if found.prompts else [],
            nothing=NO_SIGNAL,
        )
    )


def expert_rows(found: Probe) -> list[tuple[str, Expert, str]]:
    """Every expert and every fusion, as it is called, with its colour; the default fusion comes last."""
    rows = [(e.name, e, KINDS.get(e.name, "teacher")) for e in found.experts]
    return rows + [(f"fused, {e.name}", e, "fused" if e is found.fused else "other") for e in found.fusions]


def _experts(found: Probe) -> dict[str, Any]:
    rows = expert_rows(found)
    bounds = [(e.intervals["top1"].low, e.intervals["top1"].high) for _, e, _ in rows]
    bars = [
        (name, expert.metrics.top1, low, high, kind)
        for (name, expert, kind), (low, high) in zip(rows, bounds, strict=True)
    ]
    return {"experts": rows, "accuracy": bars}


def alpha_curves(found: Probe) -> dict[str, Any]:
    """Accuracy and NLL over α as points, and the range of each axis."""
    curves: dict[str, Any] = {"best": max(found.curve, key=lambda point: point[1])}
    for name, column in (("top1", 1), ("nll", 2)):
        points = [(point[0], point[column]) for point in found.curve]
        lowest, highest = min(y for _, y in points), max(y for _, y in points)
        margin = 0.05 * (highest - lowest) or 0.01
        curves |= {f"{name}_curve": points, f"{name}_range": (lowest - margin, highest + margin)}
    return curves


def _right(found: Probe) -> dict[str, Any]:
    words = [
        ("fused", found.both, 0.9, "both right"),
        ("teacher", found.teacher_only, 0.9, "only the teacher"),
        ("clip", found.clip_only, 0.9, "only CLIP"),
        ("other", found.neither, 0.6, "neither"),
    ]
    return {"right_words": words, "right": [part[:3] for part in words]}


def bins_of(bins: Reliability) -> list[tuple[float, float, int]]:
    """Confidence, accuracy and count of each bin that holds images."""
    return [
        (confidence, accuracy, count)
        for confidence, accuracy, count in zip(bins.confidence, bins.accuracy, bins.count, strict=True)
        if confidence is not None and accuracy is not None
    ]


def _moves(found: Probe) -> list[tuple[str, list[tuple[str, float, float]]]]:
    """Each row's state and its cells: colour, strength of the colour in percent, number of images."""
    rows = []
    for before, counts in zip(State, found.moves.counts, strict=True):
        cells = []
        for after, count in zip(State, counts, strict=True):
            kind = "fused" if after < before else "wrong" if after > before else "other"
            cells.append((kind, round(55 * (count / found.images) ** 0.5, 1), count))
        rows.append((STATES[before], cells))
    return rows
