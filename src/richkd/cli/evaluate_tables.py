"""The tables that ``richkd evaluate`` prints; no logic."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table

    from richkd.evaluate.run import Evaluation
    from richkd.metrics.intervals import Interval

# Width in characters if the output is not a terminal.
WIDE = 180
CI = "95% CI"


def print_evaluation(result: Evaluation, title: str) -> None:
    """Print one table per group of metrics; groups without rows are omitted.

    Args:
        result: the metrics.
        title: title of the first table.
    """
    from richkd.core.terminal import Terminal

    console = Terminal(width=None if sys.stdout.isatty() else WIDE)
    tables = (
        _accuracy(result, title),
        _confidence(result),
        _semantics(result),
        _differences(result),
        _fidelity(result),
        _robustness(result),
        _shifts(result),
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
    table = _table(title, "top-1", CI, "top-5", "NLL", "ECE", CI, "adaptive ECE", "MCE", "Brier")
    for model_report in result.model_reports:
        rows = [(model_report.name, model_report.uncalibrated, "ece", 0)]
        if model_report.temperature != 1.0:
            name = f"  calibrated, T = {model_report.temperature:.3f}"
            rows.append((name, model_report.calibrated, "calibrated ece", 1))
        for name, figures, key, calibrated in rows:
            top1, ece = model_report.intervals["top1"], model_report.intervals[key]
            table.add_row(
                name,
                f"{figures.top1:.2%}",
                _range(top1, 1, 100),
                f"{figures.top5:.2%}",
                f"{figures.nll:.4f}",
                f"{figures.ece:.4f}",
                _range(ece, 3),
                f"{model_report.adaptive_ece[calibrated]:.4f}",
                f"{model_report.reliability[calibrated].mce:.4f}",
                f"{figures.brier:.4f}",
            )
    return table


def _confidence(result: Evaluation) -> Table:
    from richkd.evaluate.model_report import CERTAIN
    from richkd.metrics.confidence import COVERAGES

    title = f"confidence and selective risk, calibrated (confident: at least {CERTAIN:.0%})"
    risks = [f"risk at {coverage:.0%} coverage" for coverage in COVERAGES]
    table = _table(title, "confident, correct", "confident, incorrect", *risks, "AURC", "AUGRC")
    for model_report in result.model_reports:
        row = model_report.confidence
        shares = [f"{share:.1%}" for share in (*row.calibrated, *row.wrong_at)]
        table.add_row(model_report.name, *shares, f"{row.aurc:.4f}", f"{row.augrc:.4f}")
    return table


def _semantics(result: Evaluation) -> Table:
    columns = (
        "superclass AUROC",
        CI,
        "superclass mass",
        "consistency",
        "mistake severity",
        "distance",
        "Mantel ρ",
    )
    table = _table("probabilities of wrong classes, calibrated", *columns)
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


def _differences(result: Evaluation) -> Table:
    columns = ("top-1, points", CI, "NLL", CI, "McNemar's p")
    table = _table(f"difference to {result.model_reports[0].name}", *columns)
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


def _fidelity(result: Evaluation) -> Table:
    columns = ("agreement", "KL(teacher ‖ student), nats", "CKA of features")
    table = _table("agreement of students with teachers", *columns)
    for model, rows in result.fidelity.items():
        for row in rows:
            cka = "" if row.cka is None else f"{row.cka:.3f}"
            table.add_row(f"{model} vs {row.name}", f"{row.agreement:.2%}", f"{row.kl:.4f}", cka)
    return table


def _robustness(result: Evaluation) -> Table:
    from richkd.evaluate.corruptions.corrupt import GROUPS

    source = result.robustness[0].source if result.robustness else ""
    columns = ("clean", "corrupted", CI, *GROUPS, "mCE", "relative mCE", "ECE, clean", "ECE, corrupted")
    table = _table(f"error rate on images {source}", *columns)
    for row in result.robustness:
        by_group = [row.group_error(group) for group in GROUPS]
        relative = (row.mce, row.relative_mce)
        table.add_row(
            row.name,
            f"{row.clean_error:.2%}",
            f"{row.error.estimate:.2%}",
            _range(row.error, 1, 100),
            *("" if error is None else f"{error:.1%}" for error in by_group),
            *("" if ratio is None else f"{ratio:.3f}" for ratio in relative),
            f"{row.clean_ece:.3f}",
            f"{row.ece:.3f}",
        )
    return table


def _shifts(result: Evaluation) -> Table:
    columns = ("images", "classes", "top-1", CI, "in-distribution top-1", CI, "ECE", "in-distribution ECE")
    table = _table("distribution shift: other images of the same classes", *columns)
    for row in result.shifts:
        in_distribution = row.home_accuracy
        table.add_row(
            f"{row.name} on {row.shift}",
            f"{row.images:,}",
            str(row.classes),
            f"{row.accuracy.estimate:.2%}",
            _range(row.accuracy, 1, 100),
            "" if in_distribution is None else f"{in_distribution.estimate:.2%}",
            _range(in_distribution, 1, 100),
            f"{row.ece:.3f}",
            "" if row.home_ece is None else f"{row.home_ece:.3f}",
        )
    return table


def _costs(result: Evaluation) -> Table:
    from richkd.metrics.cost import BATCHES

    times = [f"ms, batch {batch}" for batch in BATCHES]
    columns = ("parameters", "MFLOPs per image", "weights, MB", f"peak MB, batch {BATCHES[-1]}", *times)
    table = _table("cost on this machine", *columns)
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
