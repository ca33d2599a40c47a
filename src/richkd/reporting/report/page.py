"""A report as a single HTML page without external files, as Markdown text and as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from richkd.core.files import write_atomically
from richkd.core.pages import environment
from richkd.evaluate.model_report import CERTAIN, ModelReport
from richkd.evaluate.predictors import FUSED_LABELED, FUSED_WITHOUT
from richkd.metrics.confidence import COVERAGES
from richkd.metrics.semantics import Semantics
from richkd.pipeline.roles import FUSED
from richkd.reporting.probe.page import alpha_curves, bins_of, teacher_rows
from richkd.reporting.probe.verdict import explanation, headline
from richkd.reporting.report.collect import Report
from richkd.reporting.report.verdict import sentences

# Classes of the style sheet, which set the colors. Lines also differ in their dashes, for readers who cannot
# distinguish the colors.
STUDENTS = ("s0", "s1", "s2", "s3")
DASHES = {"s0": "none", "s1": "7 3", "s2": "2 3", "s3": "9 3 2 3", "teacher": "none", "clip": "7 3"}
MODEL_HEADS = (
    "model",
    "accuracy",
    "95% CI",
    "top-5",
    "NLL",
    "ECE",
    "ECE, 95% CI",
    "AURC",
    "parameters, M",
    "MFLOPs",
    "weights, MB",
    "peak memory, MB",
    "ms, batch of 1",
    "ms, batch of 64",
)


def write_report(report: Report, folder: str | Path) -> Path:
    """Write ``report.html``, ``report.md`` and ``summary.json`` into a folder.

    Args:
        report: all data of the page.
        folder: the folder; it is created if necessary.

    Returns:
        The path of the page.

    Raises:
        CheckpointError: the folder cannot be written.
    """
    values = context(report)
    folder = Path(folder)
    page = folder / "report.html"
    write_atomically(
        page, environment("richkd.reporting").get_template("report.html").render(**values).encode()
    )
    write_atomically(
        folder / "report.md",
        environment("richkd.reporting").get_template("report.md").render(**values).encode(),
    )
    write_atomically(folder / "summary.json", f"{json.dumps(numbers(report), indent=1)}\n".encode())
    return page


def numbers(report: Report) -> dict[str, Any]:
    """All data of the page as a dictionary that can be written as JSON."""
    return {
        "verdict": sentences(report),
        "data": report.data,
        "fingerprint": report.fingerprint,
        "names": report.names,
        **report.evaluation.to_dict(),
        "mistakes": [
            {
                "image": mistake.picture.key,
                "truth": mistake.truth,
                "answers": {one.model: [one.answer, one.confidence] for one in mistake.answers},
            }
            for mistake in report.mistakes
        ],
        "probe": None if report.probe is None else report.probe.to_dict(),
        "runs": {
            run.name: {"summary": run.summary, "environment": run.environment, "epochs": list(run.epochs)}
            for run in report.runs
        },
    }


def context(report: Report) -> dict[str, Any]:
    """The values of the templates ``report.html`` and ``report.md``, by name."""
    result = report.evaluation
    kinds = kinds_of(report)
    models = result.model_reports
    rows = [(kinds[model.name], _model_row(report, model)) for model in models]
    return {
        "title": f"Evaluation of {report.names[report.shipped.name]}",
        "report": report,
        "result": result,
        "images": report.shipped.uncalibrated.n,
        "sentences": sentences(report),
        "names": report.names,
        "kinds": kinds,
        "first": report.shipped.name,
        "certain": CERTAIN,
        "coverages": COVERAGES,
        "legend": [(kinds[one.name], _dashes(kinds[one.name]), report.names[one.name]) for one in models],
        "model_heads": MODEL_HEADS,
        "model_rows": rows,
        "model_csv": [[raw for _, raw in row] for _, row in rows],
        "pairs": result.comparisons,
        "fidelity": [(student, row) for student, rows in result.fidelity.items() for row in rows],
        "semantics": [(one.name, _semantics_row(one.semantics)) for one in models if one.semantics],
        **_corruptions(report),
        **_confusions(report),
        **_reliability(report, kinds),
        **_risk(report, kinds),
        **_classes(report),
        **_probe(report),
        **_training(report),
    }


def kinds_of(report: Report) -> dict[str, str]:
    """Color class of each model: "s0", "s1", … for the students, "teacher", "clip" or "fused".

    Example:
        >>> from types import SimpleNamespace as Case
        >>> models = [Case(name=name) for name in ("runs/small", "resnet50", "fused")]
        >>> evaluation = Case(model_reports=models)
        >>> kinds_of(Case(evaluation=evaluation, students=("runs/small",), clip=None))
        {'runs/small': 's0', 'resnet50': 'teacher', 'fused': 'fused'}
    """
    kinds, students = {}, iter(STUDENTS)
    for model_report in report.evaluation.model_reports:
        name = model_report.name
        if name in report.students:
            kinds[name] = next(students, "other")
        elif name in (FUSED, FUSED_WITHOUT, FUSED_LABELED):
            kinds[name] = "fused"
        else:
            kinds[name] = "clip" if name == report.clip else "teacher"
    return kinds


def _model_row(report: Report, model_report: ModelReport) -> list[tuple[str, float | str]]:
    """Cells of one model: the text, and the value that the table is sorted by."""
    top1, ece = model_report.intervals["top1"], model_report.intervals["calibrated ece"]
    cells: list[tuple[str, float | str]] = [
        (report.names[model_report.name], report.names[model_report.name]),
        (f"{top1.estimate:.1%}", top1.estimate),
        (f"{100 * top1.low:.1f}–{100 * top1.high:.1f}", top1.low),
        (f"{model_report.uncalibrated.top5:.1%}", model_report.uncalibrated.top5),
        (f"{model_report.calibrated.nll:.3f}", model_report.calibrated.nll),
        (f"{ece.estimate:.3f}", ece.estimate),
        (f"{ece.low:.3f}–{ece.high:.3f}", ece.low),
        (f"{model_report.confidence.aurc:.4f}", model_report.confidence.aurc),
    ]
    cost = report.evaluation.costs.get(model_report.name)
    if cost is None:
        return [*cells, *[("", "")] * (len(MODEL_HEADS) - len(cells))]
    one, many = cost.milliseconds.values()
    return [
        *cells,
        (f"{cost.parameters / 1e6:.3g}", cost.parameters / 1e6),
        (f"{cost.flops / 1e6:.3g}", cost.flops / 1e6),
        (f"{cost.megabytes:.3g}", cost.megabytes),
        (f"{cost.peak_megabytes:.3g}", cost.peak_megabytes),
        (f"{one:.1f}", one),
        (f"{many:.1f}", many),
    ]


def _semantics_row(row: Semantics) -> list[str]:
    auroc = row.superclass_auroc
    return [
        "" if auroc is None else f"{auroc.estimate:.3f}",
        "" if auroc is None else f"{auroc.low:.3f}–{auroc.high:.3f}",
        "" if row.superclass_mass is None else f"{row.superclass_mass.estimate:.3f}",
        f"{row.consistency.estimate:.3f}",
        "" if row.mistake_severity is None else f"{row.mistake_severity.estimate:.3f}",
        f"{row.distance.estimate:.3f}",
        "" if row.correlation is None else f"{row.correlation.rho:.3f} ({row.correlation.p:.3f})",
    ]


def _dashes(kind: str) -> str:
    return DASHES.get(kind, "4 2")


def _corruptions(report: Report) -> dict[str, Any]:
    robustness = report.evaluation.robustness
    rows = [
        [report.names[row.name], name, severity + 1, error, row.eces[name][severity]]
        for row in robustness
        for name, errors in row.errors.items()
        for severity, error in enumerate(errors)
    ]
    return {"robustness": robustness, "corruption_rows": rows}


def _confusions(report: Report) -> dict[str, Any]:
    names = report.evaluation.class_names
    rows = [[name, *counts] for name, counts in zip(names, report.shipped.confusion, strict=True)]
    return {"confusion_heads": ["correct / predicted", *names], "confusion_rows": rows}


def _reliability(report: Report, kinds: Mapping[str, str]) -> dict[str, Any]:
    diagrams = [
        (report.names[model.name], kinds[model.name], bins_of(model.reliability[1]))
        for model in report.evaluation.model_reports
    ]
    rows = [
        (report.names[model.name], "yes" if calibrated else "no", f"{confidence:.4f}", f"{top1:.4f}", count)
        for model in report.evaluation.model_reports
        for calibrated, bins in enumerate(model.reliability)
        for confidence, top1, count in bins_of(bins)
    ]
    return {"diagrams": diagrams, "reliability_rows": rows, "calibration": _calibration(report, kinds)}


def _calibration(report: Report, kinds: Mapping[str, str]) -> list[tuple[str, str, list[str]]]:
    """Calibration of each model without and with its temperature: color, name, cells."""
    rows = []
    for model in report.evaluation.model_reports:
        states = [("none", model.uncalibrated)]
        # A model without a stored temperature, such as a teacher, has one row only.
        if model.temperature != 1:
            states.append((f"T = {model.temperature:.2f}", model.calibrated))
        for position, (state, metrics) in enumerate(states):
            adaptive, bins = model.adaptive_ece[position], model.reliability[position]
            values = (metrics.ece, adaptive, bins.mce, metrics.nll, metrics.brier)
            cells = [state, *(f"{value:.3f}" for value in values)]
            rows.append((kinds[model.name], report.names[model.name], cells))
    return rows


def _risk(report: Report, kinds: Mapping[str, str]) -> dict[str, Any]:
    curves = [
        (model.name, list(zip(model.curve.coverage, model.curve.risk, strict=True)))
        for model in report.evaluation.model_reports
    ]
    # The risk of the few most confident predictions is random, and would make the axis too long.
    top = max((y for _, points in curves for x, y in points if x >= 0.05), default=0.0) or 0.01
    series = [
        (kinds[name], _dashes(kinds[name]), [(x, min(y, top)) for x, y in points]) for name, points in curves
    ]
    rows = [(report.names[name], f"{x:.3f}", f"{y:.4f}") for name, points in curves for x, y in points]
    return {"risk": series, "risk_top": top, "risk_rows": rows}


def _classes(report: Report) -> dict[str, Any]:
    model_reports = report.evaluation.model_reports
    by_model = [{name: share for name, _, share in model.classes} for model in model_reports]
    classes = [
        (name, count, [shares[name] for shares in by_model]) for name, count, _ in model_reports[0].classes
    ]
    return {
        "classes": classes,
        "class_heads": ["class", "images", *(report.names[model.name] for model in model_reports)],
        "class_csv": [[name, count, *shares] for name, count, shares in classes],
    }


def _probe(report: Report) -> dict[str, Any]:
    probe = report.probe
    if probe is None:
        return {"probe": None}
    return {
        "probe": probe,
        "probe_verdict": f"{headline(probe)} {explanation(probe)}",
        "probe_rows": teacher_rows(probe),
        "alpha_rows": [(f"{a:.2f}", f"{top1:.4f}", f"{nll:.4f}") for a, top1, nll in probe.curve],
        **alpha_curves(probe),
    }


def _training(report: Report) -> dict[str, Any]:
    """Training curves of all runs: all metrics per epoch except step and learning rate."""
    colors = dict(
        zip((run.name for run in report.runs), (*STUDENTS, *["other"] * len(report.runs)), strict=False)
    )
    figures = list(dict.fromkeys(key for run in report.runs for epoch in run.epochs for key in epoch))
    figures = [key for key in figures if key not in ("epoch", "step", "lr")]
    curves = []
    for key in figures:
        series = []
        for run in report.runs:
            points = [(epoch["epoch"] + 1, epoch[key]) for epoch in run.epochs if epoch.get(key) is not None]
            # A metric that was measured only once is in the tables.
            if len(points) > 1:
                series.append((colors[run.name], _dashes(colors[run.name]), points))
        if not series:
            continue
        values = [y for _, _, points in series for _, y in points]
        last = max(x for _, _, points in series for x, _ in points)
        low, high = _axis_range(values)
        curves.append((key, series, (0, last), (low, high), 3 if high < 1 else 2))
    return {
        "curves": curves,
        "curve_heads": ["run", "epoch", *figures],
        "curve_rows": [
            [run.name, epoch["epoch"] + 1, *(epoch.get(key, "") for key in figures)]
            for run in report.runs
            for epoch in run.epochs
        ],
        "run_legend": [(colors[run.name], _dashes(colors[run.name]), run.name) for run in report.runs],
    }


def _axis_range(values: Sequence[float]) -> tuple[float, float]:
    """Lowest and highest value; a constant curve gets a range of 1."""
    low, high = min(values), max(values)
    return (low, high) if high > low else (low - 0.5, high + 0.5)
