"""What a report's figures say of a student, in three sentences."""

from __future__ import annotations

from richkd.evaluate.model_report import Comparison
from richkd.evaluate.robustness import Robustness
from richkd.metrics.intervals import Interval
from richkd.reporting.report.collect import Report

# Confidence that is off by less, on average, is as good as its word for most uses.
HONEST, DISHONEST = 0.03, 0.08
# Classes of fewer images are no ground to warn of one.
ENOUGH = 8
SUREST = 1


def sentences(report: Report) -> list[str]:
    """How good it is, how far it can be trusted, and what to look at first."""
    return [_how_good(report), _how_honest(report), _what_first(report)]


def _how_good(report: Report) -> str:
    shipped = report.shipped
    name = report.names[shipped.name]
    outputs = f"{name} is right on {_share(shipped.intervals['top1'])} of {shipped.own.n:,} images"
    cost = report.evaluation.costs.get(shipped.name)
    if cost is not None:
        outputs += (
            f", with {cost.parameters / 1e6:.2g} million parameters ({cost.megabytes:.2g} MB) and "
            f"{cost.milliseconds[1]:.2g} ms for an image on this machine"
        )
    teachers = [j for j in report.evaluation.model_reports if j.name not in report.students]
    if teachers:
        best = max(teachers, key=lambda model_report: model_report.own.top1)
        outputs += f"; the best of its teachers, {report.names[best.name]}, is right on {best.own.top1:.1%}"
    return f"{outputs}."


def _how_honest(report: Report) -> str:
    shipped = report.shipped
    gap = shipped.calibrated.ece
    wrong = shipped.confidence.wrong_at[SUREST]
    tail = f"of the surest 80% of its answers {wrong:.1%} are wrong."
    if gap <= HONEST:
        return f"It is as sure as it should be: the two differ by {gap:.1%} on average, and {tail}"
    if gap <= DISHONEST:
        return f"It is about as sure as it should be: the two differ by {gap:.1%} on average, and {tail}"
    return f"Do not take its confidence at its word: it is off by {gap:.1%} on average; {tail}"


def _what_first(report: Report) -> str:
    parts = []
    rivals = [pair for pair in report.evaluation.comparisons if pair.b in report.students]
    if rivals:
        parts.append(_beside(report, rivals[0]))
    known = [row for row in report.shipped.classes if row[1] >= ENOUGH]
    if known:
        worst = min(known, key=lambda row: row[2])
        parts.append(f"look first at “{worst[0]}”, where it is right on {worst[2]:.0%} of {worst[1]} images")
    if report.evaluation.robustness:
        parts.append(_weakest(report.evaluation.robustness[0]))
    if not parts:
        return "No class has images enough to say where it is weak."
    text = "; ".join(parts)
    return f"{text[:1].upper()}{text[1:]}."


def _beside(report: Report, pair: Comparison) -> str:
    gain = -pair.top1.estimate
    sure = (
        "more than the luck of these images" if pair.top1.low * pair.top1.high > 0 else "no clear difference"
    )
    word = "better" if gain >= 0 else "worse"
    return (
        f"it is {word} than {report.names[pair.b]} by {abs(100 * gain):.1f} points "
        f"({-100 * pair.top1.high:+.1f} to {-100 * pair.top1.low:+.1f}), {sure}"
    )


def _weakest(row: Robustness) -> str:
    name, errors = max(row.errors.items(), key=lambda item: sum(item[1]))
    share = sum(errors) / len(errors)
    return f"of all corruptions {name.replace('_', ' ')} harms it most, with {share:.0%} wrong"


def _share(interval: Interval) -> str:
    return f"{interval.estimate:.1%} ({100 * interval.low:.1f} to {100 * interval.high:.1f})"
