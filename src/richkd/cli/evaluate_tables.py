"""The tables that ``richkd evaluate`` prints."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table

    from richkd.evaluate.run import Evaluation
    from richkd.metrics.intervals import Interval

WIDE = 180


def print_evaluation(result: Evaluation, title: str) -> None:
    from rich.console import Console

    # Piped, a table is as wide as it needs to be.
    console = Console(highlight=False, width=None if sys.stdout.isatty() else WIDE)
    tables = (
        _accuracy(result, title),
        _confidence(result),
        _meaning(result),
        _pairs(result),
        _followed(result),
        _corrupted(result),
        _shifted(result),
        _costs(result),
    )
    for table in tables:
        if table.row_count:
            console.print(table)
            console.print()


def _table(title: str, *columns: str) -> Table:
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    table.add_column("", overflow="fold")
    for column in columns:
        table.add_column(column, justify="right")
    return table


def _accuracy(result: Evaluation, title: str) -> Table:
    table = _table(title, "top-1", "95 %", "top-5", "NLL", "ECE", "95 %", "adaptive", "MCE", "Brier")
    for model_report in result.model_reports:
        rows = [(model_report.name, model_report.own, "ece", 0)]
        if model_report.temperature != 1.0:
            rows.append(
                (f"  at T = {model_report.temperature:.3f}", model_report.calibrated, "calibrated ece", 1)
            )
        for name, figures, key, calibrated in rows:
            top1, ece = model_report.intervals["top1"], model_report.intervals[key]
            table.add_row(
                name,
                f"{figures.top1:.2%}",
                f"{100 * top1.low:.1f}–{100 * top1.high:.1f}",
                f"{figures.top5:.2%}",
                f"{figures.nll:.4f}",
                f"{figures.ece:.4f}",
                f"{ece.low:.3f}–{ece.high:.3f}",
                f"{model_report.adaptive_ece[calibrated]:.4f}",
                f"{model_report.reliability[calibrated].mce:.4f}",
                f"{figures.brier:.4f}",
            )
    return table


def _confidence(result: Evaluation) -> Table:
    from richkd.metrics.confidence import COVERAGES

    surest = [f"wrong in surest {coverage:.0%}" for coverage in COVERAGES]
    table = _table("confidence, calibrated", "right > 0.7", "wrong > 0.7", *surest, "AURC", "AUGRC")
    for model_report in result.model_reports:
        row = model_report.confidence
        shares = [f"{share:.1%}" for share in (*row.calibrated, *row.wrong_at)]
        table.add_row(model_report.name, *shares, f"{row.aurc:.4f}", f"{row.augrc:.4f}")
    return table


def _meaning(result: Evaluation) -> Table:
    columns = (
        "superclass AUROC",
        "95 %",
        "superclass mass",
        "consistency",
        "severity",
        "distance",
        "Mantel ρ",
    )
    table = _table("wrong classes, calibrated", *columns)
    for model_report in result.model_reports:
        row = model_report.semantics
        if row is not None:
            table.add_row(
                model_report.name,
                _estimate(row.superclass_auroc),
                _range(row.superclass_auroc, 3),
                _estimate(row.superclass_mass),
                _estimate(row.consistency),
                _estimate(row.mistake_severity),
                _estimate(row.distance),
                "" if row.correlation is None else f"{row.correlation.rho:.3f} (p {row.correlation.p:.3f})",
            )
    return table


def _estimate(interval: Interval | None) -> str:
    return "" if interval is None else f"{interval.estimate:.4f}"


def _range(interval: Interval | None, digits: int, scale: float = 1) -> str:
    if interval is None:
        return ""
    return f"{scale * interval.low:.{digits}f}–{scale * interval.high:.{digits}f}"


def _pairs(result: Evaluation) -> Table:
    table = _table(f"less {result.model_reports[0].name}", "top-1", "95 %", "NLL", "95 %", "McNemar's p")
    for pair in result.comparisons:
        table.add_row(
            pair.b,
            f"{100 * pair.top1.estimate:+.2f}",
            f"{100 * pair.top1.low:+.2f} to {100 * pair.top1.high:+.2f}",
            f"{pair.nll.estimate:+.4f}",
            f"{pair.nll.low:+.4f} to {pair.nll.high:+.4f}",
            f"{pair.mcnemar.mid_p:.2g}",
        )
    return table


def _followed(result: Evaluation) -> Table:
    table = _table("how closely it follows", "same answer", "KL, nats", "CKA of features")
    for model, rows in result.fidelity.items():
        for row in rows:
            likeness = "" if row.cka is None else f"{row.cka:.3f}"
            table.add_row(f"{model} → {row.name}", f"{row.agreement:.2%}", f"{row.kl:.4f}", likeness)
    return table


def _corrupted(result: Evaluation) -> Table:
    from richkd.evaluate.corruptions.corrupt import GROUPS

    source = result.robustness[0].source if result.robustness else ""
    columns = ("clean", "wrong", "95 %", *GROUPS, "mCE", "relative", "ECE clean", "ECE")
    table = _table(f"share of wrong answers on images that are {source}", *columns)
    for row in result.robustness:
        by_group = [row.group_error(group) for group in GROUPS]
        beside = (row.mce, row.relative_mce)
        table.add_row(
            row.name,
            f"{row.clean_error:.2%}",
            f"{row.error.estimate:.2%}",
            _range(row.error, 1, 100),
            *("" if share is None else f"{share:.1%}" for share in by_group),
            *("" if ratio is None else f"{ratio:.3f}" for ratio in beside),
            f"{row.clean_ece:.3f}",
            f"{row.ece:.3f}",
        )
    return table


def _shifted(result: Evaluation) -> Table:
    columns = ("images", "classes", "top-1", "95 %", "at home", "95 %", "ECE", "at home")
    table = _table("other pictures of the same classes", *columns)
    for row in result.shifts:
        home = row.home_accuracy
        table.add_row(
            f"{row.name} on {row.shift}",
            f"{row.images:,}",
            str(row.classes),
            f"{row.accuracy.estimate:.2%}",
            _range(row.accuracy, 1, 100),
            "" if home is None else f"{home.estimate:.2%}",
            _range(home, 1, 100),
            f"{row.ece:.3f}",
            "" if row.home_ece is None else f"{row.home_ece:.3f}",
        )
    return table


def _costs(result: Evaluation) -> Table:
    from richkd.metrics.cost import BATCHES

    times = [f"ms, batch {batch}" for batch in BATCHES]
    table = _table("cost here", "parameters", "MFLOPs an image", "MB", "MB at work", *times)
    for name, cost in result.costs.items():
        milliseconds = [f"{cost.milliseconds[batch]:.1f}" for batch in BATCHES]
        size = (
            f"{cost.parameters:,}",
            f"{cost.flops / 1e6:.1f}",
            f"{cost.megabytes:.1f}",
            f"{cost.peak_megabytes:.1f}",
        )
        table.add_row(name, *size, *milliseconds)
    return table
