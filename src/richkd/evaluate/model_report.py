"""All metrics of one model on labeled images, and the comparison of two models on the same images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from richkd.data.hierarchy import Hierarchy
from richkd.metrics.accuracy import Metrics, hits, measure
from richkd.metrics.calibration import Reliability, adaptive_ece, measure_reliability
from richkd.metrics.checks import Figures
from richkd.metrics.confidence import (
    COVERAGES,
    RiskCoverage,
    augrc,
    aurc,
    confident_rates_at_coverage,
    measure_confident_rates,
    measure_risk_coverage,
)
from richkd.metrics.ece_intervals import bootstrap_ece, paired_bootstrap_ece
from richkd.metrics.intervals import (
    RESAMPLES,
    RESAMPLING_SEED,
    Interval,
    McNemar,
    bootstrap_means,
    bootstrap_selective,
    discordant_counts,
    mcnemar_test,
    paired_bootstrap,
)
from richkd.metrics.semantics import Semantics, measure_semantics

# Confidence from which a prediction counts as confident; the paper does not say which one it has.
CERTAIN = 0.7
CURVE_POINTS = 100


@dataclass(frozen=True)
class Confidence(Figures):
    """Confident predictions and selective risk of one model; made by `confidence_of`.

    Attributes:
        name: name of the model.
        raw: confidently correct and confidently incorrect images as fractions of all images, for a confidence
            of at least `CERTAIN` without temperature; a temperature alone can change these fractions.
        calibrated: the same with calibrated probabilities.
        wrong_at: selective risk, the error rate among the most confident images, at each of `COVERAGES`.
        aurc: area under the risk-coverage curve (`richkd.metrics.confidence.aurc`).
        augrc: area under the generalized risk-coverage curve.
    """

    name: str
    raw: tuple[float, float]
    calibrated: tuple[float, float]
    wrong_at: tuple[float, ...]
    aurc: float
    augrc: float


@dataclass(frozen=True)
class Confusion(Figures):
    """The class with which a class is confused most often; made by `confusions_of`.

    Attributes:
        name: the correct class.
        called: the incorrect class that is predicted most often for images of ``name``.
        share: fraction of the images of ``name`` for which ``called`` is predicted.
        images: number of images of ``name``.
    """

    name: str
    called: str
    share: float
    images: int


@dataclass(frozen=True)
class ModelReport:
    """All metrics of one model on labeled images; made by `measure_model`.

    *Calibrated* metrics use softmax(logits / temperature). The temperature is given; it is not fitted here.

    Attributes:
        name: name of the model.
        temperature: the temperature of the calibrated metrics.
        uncalibrated: accuracy, NLL, ECE and Brier score without temperature.
        calibrated: the same with temperature.
        intervals: 95% confidence intervals by metric: ``top1``, ``top5``, ``nll``, ``brier`` and ``ece``, the
            last three also as ``calibrated …``; and ``certain right``, ``certain wrong`` (confidently correct
            and incorrect images), ``aurc`` and ``augrc``, all calibrated.
        adaptive_ece: ECE over bins of equal mass, without and with temperature.
        reliability: reliability diagram, without and with temperature.
        confidence: confident predictions and selective risk.
        curve: risk-coverage curve, calibrated.
        semantics: metrics of the probabilities of wrong classes, calibrated; None without a hierarchy.
        classes: name, number of images and accuracy of each class that has images.
        confusions: the most frequent confusion of each class, the largest fraction first.
        confusion: confusion matrix, images of each class (rows) by predicted class (columns).
    """

    name: str
    temperature: float
    uncalibrated: Metrics
    calibrated: Metrics
    intervals: dict[str, Interval]
    adaptive_ece: tuple[float, float]
    reliability: tuple[Reliability, Reliability]
    confidence: Confidence
    curve: RiskCoverage
    semantics: Semantics | None
    classes: tuple[tuple[str, int, float], ...]
    confusions: tuple[Confusion, ...]
    confusion: tuple[tuple[int, ...], ...]

    def to_dict(self) -> dict[str, Any]:
        """The fields as a dictionary that can be written as JSON."""
        return asdict(self)


@dataclass(frozen=True)
class PairedModels(Figures):
    """Metrics of model b minus those of model a on the same images; made by `compare`.

    Attributes:
        a: name of the first model.
        b: name of the second model.
        top1: difference in accuracy with its interval; > 0 if b is more accurate.
        nll: difference in calibrated NLL with its interval, in nats; < 0 if b is better.
        ece: difference in calibrated ECE with its interval; < 0 if b is better.
        mcnemar: McNemar's test that both have the same accuracy.
    """

    a: str
    b: str
    top1: Interval
    nll: Interval
    ece: Interval
    mcnemar: McNemar


def measure_model(
    name: str,
    logits_NC: Tensor,
    labels_N: Tensor,
    class_names: Sequence[str],
    *,
    temperature: float = 1.0,
    hierarchy: Hierarchy | None = None,
) -> ModelReport:
    """Compute all metrics of a model from its logits.

    Args:
        name: name of the model.
        logits_NC: logits of the model; softmax(logits_NC) are its probabilities.
        labels_N: labels of the images.
        class_names: names of the classes.
        temperature: temperature of the calibrated metrics, as stored with the model.
        hierarchy: superclass of each class, for the metrics of wrong classes; None to skip them.

    Raises:
        RichKDError: the logits are not finite, or a label is not a valid class.

    Example:
        >>> logits_NC, labels_N = torch.tensor([[2.0, 0.0], [2.0, 0.0]]), torch.tensor([0, 1])
        >>> result = measure_model("model", logits_NC, labels_N, ("cat", "dog"), temperature=4.0)
        >>> result.uncalibrated.top1, result.classes
        (0.5, (('cat', 1, 1.0), ('dog', 1, 0.0)))
        >>> result.calibrated.nll < result.uncalibrated.nll  # half of the confident predictions are incorrect
        True
    """
    scaled_NC = logits_NC.double() / temperature
    probs, calibrated = logits_NC.double().softmax(dim=1), scaled_NC.softmax(dim=1)
    columns = _columns(logits_NC, scaled_NC, probs, calibrated, labels_N)
    means = bootstrap_means(
        torch.stack(list(columns.values()), dim=1), seed=RESAMPLING_SEED, resamples=RESAMPLES
    )
    intervals = dict(zip(columns, means, strict=True))
    intervals |= {
        "ece": bootstrap_ece(probs, labels_N, seed=RESAMPLING_SEED, resamples=RESAMPLES),
        "calibrated ece": bootstrap_ece(calibrated, labels_N, seed=RESAMPLING_SEED, resamples=RESAMPLES),
    }
    selective = bootstrap_selective(calibrated, labels_N, seed=RESAMPLING_SEED, resamples=RESAMPLES)
    intervals |= dict(zip(("aurc", "augrc"), selective, strict=True))
    return ModelReport(
        name,
        temperature,
        measure(logits_NC, labels_N),
        measure(logits_NC, labels_N, temperature),
        intervals,
        (adaptive_ece(probs, labels_N), adaptive_ece(calibrated, labels_N)),
        (measure_reliability(probs, labels_N), measure_reliability(calibrated, labels_N)),
        confidence_of(name, logits_NC, scaled_NC, labels_N),
        measure_risk_coverage(calibrated, labels_N, CURVE_POINTS),
        None if hierarchy is None else measure_semantics(calibrated, labels_N, hierarchy),
        _by_class(logits_NC, labels_N, class_names),
        confusions_of(logits_NC, labels_N, class_names),
        _confusion(logits_NC, labels_N, len(class_names)),
    )


def compare(a: tuple[str, Tensor, float], b: tuple[str, Tensor, float], labels_N: Tensor) -> PairedModels:
    """Compare two models on the same images.

    Args:
        a: name, logits (N, C) and temperature of the first model.
        b: the same of the second model.
        labels_N: labels of the images.

    Raises:
        RichKDError: the shapes of the logits differ, or logits are not finite.

    Example:
        >>> labels_N, logits_NC = torch.tensor([0, 1, 0, 1]), torch.tensor([[2.0, 1.0]] * 4)
        >>> pair = compare(("a", logits_NC, 1.0), ("b", 5 * torch.eye(2)[labels_N], 1.0), labels_N)
        >>> pair.top1.estimate, pair.mcnemar.only_b
        (0.5, 2)
    """
    (a_name, a_NC, a_temperature), (b_name, b_NC, b_temperature) = a, b
    a_scaled, b_scaled = a_NC.double() / a_temperature, b_NC.double() / b_temperature
    a_NS, b_NS = (
        torch.stack([correct_of(z_NC, labels_N), losses_of(z_NC, labels_N)], dim=1)
        for z_NC in (a_scaled, b_scaled)
    )
    top1, nll = paired_bootstrap(a_NS, b_NS, seed=RESAMPLING_SEED, resamples=RESAMPLES)
    ece = paired_bootstrap_ece(
        a_scaled.softmax(dim=1), b_scaled.softmax(dim=1), labels_N, seed=RESAMPLING_SEED, resamples=RESAMPLES
    )
    return PairedModels(
        a_name, b_name, top1, nll, ece, mcnemar_test(*discordant_counts(a_NC, b_NC, labels_N))
    )


def correct_of(logits_NC: Tensor, labels_N: Tensor) -> Tensor:
    """Whether the prediction of each image is correct: 1 or 0 in float64, shape (N).

    Example:
        >>> correct_of(torch.tensor([[2.0, 1.0], [2.0, 1.0]]), torch.tensor([0, 1])).tolist()
        [1.0, 0.0]
    """
    return (logits_NC.argmax(dim=1) == labels_N).double()


def losses_of(logits_NC: Tensor, labels_N: Tensor) -> Tensor:
    """Negative log-likelihood of each image's label in nats, in float64, shape (N).

    Example:
        >>> losses_of(torch.zeros(1, 4), torch.tensor([2])).exp().round().tolist()  # 4 equal probabilities
        [4.0]
    """
    return torch.nn.functional.cross_entropy(logits_NC.double(), labels_N, reduction="none")


def _columns(
    logits_NC: Tensor, scaled_NC: Tensor, probs_NC: Tensor, calibrated_NC: Tensor, labels_N: Tensor
) -> dict[str, Tensor]:
    """Values per image (N) by metric; the mean over the images is the metric."""
    correct_N = correct_of(logits_NC, labels_N)
    certain_N = (calibrated_NC.amax(dim=1) >= CERTAIN).double()
    truth_NC = torch.zeros_like(probs_NC).scatter_(1, labels_N[:, None], 1.0)
    return {
        "top1": correct_N,
        "top5": hits(logits_NC, labels_N, 5).double(),
        "nll": losses_of(logits_NC, labels_N),
        "calibrated nll": losses_of(scaled_NC, labels_N),
        "brier": (probs_NC - truth_NC).square().sum(dim=1),
        "calibrated brier": (calibrated_NC - truth_NC).square().sum(dim=1),
        "certain right": certain_N * correct_N,
        "certain wrong": certain_N * (1 - correct_N),
    }


def confidence_of(name: str, logits_NC: Tensor, scaled_NC: Tensor, labels_N: Tensor) -> Confidence:
    """Confident predictions and selective risk of a model.

    Args:
        name: name of the model.
        logits_NC: logits at the model's scale.
        scaled_NC: calibrated logits, which are divided by a temperature.
        labels_N: labels of the images.

    Example:
        >>> logits_NC = torch.tensor([[3.0, 0.0], [3.0, 0.0], [1.0, 0.0], [1.0, 0.0]])
        >>> result = confidence_of("model", logits_NC, logits_NC / 4, torch.tensor([0, 0, 1, 1]))
        >>> result.raw, result.calibrated  # at least 70% confident: all four images, then none
        ((0.5, 0.5), (0.0, 0.0))
        >>> result.wrong_at[0]  # error rate among the 50% most confident images
        0.0
    """
    raw_NC, calibrated_NC = logits_NC.double().softmax(dim=1), scaled_NC.double().softmax(dim=1)
    raw, scaled = (
        measure_confident_rates(probs_NC, labels_N, CERTAIN) for probs_NC in (raw_NC, calibrated_NC)
    )
    risks = [
        confident_rates_at_coverage(calibrated_NC, labels_N, coverage).wrong / coverage
        for coverage in COVERAGES
    ]
    return Confidence(
        name,
        (raw.correct, raw.wrong),
        (scaled.correct, scaled.wrong),
        tuple(risks),
        aurc(calibrated_NC, labels_N),
        augrc(calibrated_NC, labels_N),
    )


def confusions_of(logits_NC: Tensor, labels_N: Tensor, class_names: Sequence[str]) -> tuple[Confusion, ...]:
    """For each class that has errors, its most frequent confusion; the largest fraction first.

    Example:
        >>> logits_NC = torch.eye(3)[[0, 1, 1]]  # predicted: cat, dog, dog
        >>> [one] = confusions_of(logits_NC, torch.tensor([0, 0, 1]), ("cat", "dog", "cow"))
        >>> one.name, one.called, one.share, one.images
        ('cat', 'dog', 0.5, 2)
    """
    guess_N = logits_NC.argmax(dim=1)
    result = []
    for label, name in enumerate(class_names):
        guesses_K = guess_N[labels_N == label]
        counts_C = torch.bincount(guesses_K, minlength=len(class_names))
        counts_C[label] = 0
        if int(counts_C.max()):
            called, images = int(counts_C.argmax()), len(guesses_K)
            result.append(Confusion(name, class_names[called], int(counts_C[called]) / images, images))
    return tuple(sorted(result, key=lambda confusion: -confusion.share))


def _confusion(logits_NC: Tensor, labels_N: Tensor, classes: int) -> tuple[tuple[int, ...], ...]:
    counts = torch.bincount(labels_N * classes + logits_NC.argmax(dim=1), minlength=classes**2)
    return tuple(map(tuple, counts.view(classes, classes).tolist()))


def _by_class(
    logits_NC: Tensor, labels_N: Tensor, class_names: Sequence[str]
) -> tuple[tuple[str, int, float], ...]:
    correct_N = correct_of(logits_NC, labels_N)
    rows = []
    for label, name in enumerate(class_names):
        of_class_K = correct_N[labels_N == label]
        if len(of_class_K):
            rows.append((name, len(of_class_K), float(of_class_K.mean())))
    return tuple(rows)
