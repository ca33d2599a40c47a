"""The conclusions from a report in three short paragraphs: accuracy, calibration, and weaknesses."""

from __future__ import annotations

import math

from richkd.evaluate.model_report import PairedModels
from richkd.evaluate.robustness import Cells
from richkd.metrics.confidence import COVERAGES
from richkd.metrics.intervals import Interval
from richkd.reporting.report.collect import Report

# Upper limits of the ECE of a well calibrated and of a moderately calibrated model.
WELL_CALIBRATED, MODERATELY_CALIBRATED = 0.03, 0.08
# With fewer images the accuracy of a class is too uncertain for a conclusion.
MIN_CLASS_IMAGES = 8
# Coverage of the selective risk.
COVERAGE = 0.8


def sentences(report: Report) -> list[str]:
    """Three paragraphs on the first student: accuracy and cost; calibration; comparison and weaknesses."""
    confidence = report.shipped.confidence
    risk = confidence.wrong_at[COVERAGES.index(COVERAGE)]
    return [_accuracy(report), calibration_text(report.shipped.calibrated.ece, risk), _weaknesses(report)]


def calibration_text(ece: float, risk: float) -> str:
    """Text on the calibration of a model.

    Args:
        ece: expected calibration error in [0, 1], after calibration.
        risk: selective risk at `COVERAGE`.

    Example:
        >>> calibration_text(0.015, 0.013).split(". ")[0]
        'Its confidence is well calibrated (expected calibration error 1.5%)'
        >>> calibration_text(0.2, 0.1).split(" (")[0]
        'Its confidence is poorly calibrated'
    """
    if ece <= WELL_CALIBRATED:
        grade = "well calibrated"
    elif ece <= MODERATELY_CALIBRATED:
        grade = "moderately calibrated"
    else:
        grade = "poorly calibrated"
    return (
        f"Its confidence is {grade} (expected calibration error {ece:.1%}). Among the {COVERAGE:.0%} most "
        f"confident predictions, the error rate is {risk:.1%}."
    )


def _accuracy(report: Report) -> str:
    shipped = report.shipped
    text = (
        f"The accuracy of {report.names[shipped.name]} is {_percent(shipped.intervals['top1'])} on "
        f"{shipped.uncalibrated.n:,} images."
    )
    cost = report.evaluation.costs.get(shipped.name)
    if cost is not None:
        text += (
            f" It has {cost.parameters / 1e6:.2g} million parameters ({cost.megabytes:.2g} MB) and takes "
            f"{cost.milliseconds[1]:.2g} ms per image on this machine."
        )
    teachers = [j for j in report.evaluation.model_reports if j.name not in report.students]
    if teachers:
        best = max(teachers, key=lambda model_report: model_report.uncalibrated.top1)
        text += (
            f" The best teacher, {report.names[best.name]}, has an accuracy of {best.uncalibrated.top1:.1%}."
        )
    return text


def _weaknesses(report: Report) -> str:
    parts = []
    controls = [pair for pair in report.evaluation.comparisons if pair.b in report.students]
    if controls:
        pair = controls[0]
        parts.append(difference_text(report.names[pair.b], pair))
    classes = [row for row in report.shipped.classes if row[1] >= MIN_CLASS_IMAGES]
    if classes:
        name, images, accuracy = min(classes, key=lambda row: row[2])
        parts.append(f"The class with the lowest accuracy is “{name}” ({accuracy:.0%} of {images} images).")
    if report.evaluation.robustness:
        parts.append(worst_corruption(report.evaluation.robustness[0].errors))
    if not parts:
        return f"No class has at least {MIN_CLASS_IMAGES} images, so the accuracy per class is uncertain."
    return " ".join(parts)


def difference_text(name: str, pair: PairedModels) -> str:
    """Sentence on the difference in accuracy between the first model (a) and another one (b).

    Args:
        name: name of the other model on the page.
        pair: comparison of the first model with the other one.

    Example:
        >>> from types import SimpleNamespace
        >>> top1 = Interval(-0.041, -0.055, -0.029, 0.95, 1000)
        >>> difference_text("kd", SimpleNamespace(top1=top1))
        'Its accuracy is 4.1 points higher than that of kd (95% CI +2.9 to +5.5, significant).'
    """
    gain = -pair.top1.estimate
    significant = "significant" if pair.top1.low * pair.top1.high > 0 else "not significant"
    direction = "higher" if gain >= 0 else "lower"
    return (
        f"Its accuracy is {abs(100 * gain):.1f} points {direction} than that of {name} "
        f"(95% CI {-100 * pair.top1.high:+.1f} to {-100 * pair.top1.low:+.1f}, {significant})."
    )


def worst_corruption(errors: Cells) -> str:
    """Sentence on the corruption with the highest error rate, the mean over its severities.

    Args:
        errors: error rates by corruption and severity.

    Example:
        >>> worst_corruption({"fog": (0.2, 0.4), "jpeg_compression": (0.2, 0.2)})
        'The corruption with the highest error rate is fog (30%).'
        >>> worst_corruption({"fog": (0.2, 0.4), "jpeg_compression": (0.3, 0.3)})
        'The error rate is the same for all corruptions (30%).'
    """
    means = {name: sum(values) / len(values) for name, values in errors.items()}
    name, error = max(means.items(), key=lambda item: item[1])
    if len(means) > 1 and math.isclose(error, min(means.values())):
        return f"The error rate is the same for all corruptions ({error:.0%})."
    return f"The corruption with the highest error rate is {name.replace('_', ' ')} ({error:.0%})."


def _percent(interval: Interval) -> str:
    return f"{interval.estimate:.1%} (95% CI {100 * interval.low:.1f} to {100 * interval.high:.1f})"
