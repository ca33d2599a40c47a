"""One model on one set of images, by every figure, and two models compared image by image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from richkd.data.hierarchy import Hierarchy
from richkd.metrics.accuracy import Metrics, measure
from richkd.metrics.calibration import Reliability, adaptive_ece, reliability
from richkd.metrics.checks import Figures
from richkd.metrics.confidence import (
    COVERAGES,
    RiskCoverage,
    augrc,
    aurc,
    confident_rates,
    confident_rates_at_coverage,
    risk_coverage,
)
from richkd.metrics.intervals import (
    Interval,
    McNemar,
    bootstrap_ece,
    bootstrap_means,
    bootstrap_selective,
    discordant_counts,
    mcnemar,
    paired_bootstrap,
    paired_bootstrap_ece,
)
from richkd.metrics.semantics import Semantics, semantics

# Confidence from which the paper calls an answer certain.
CERTAIN = 0.7
SEED, RESAMPLES = 0, 1000
CURVE_POINTS = 100


@dataclass(frozen=True)
class Confidence(Figures):
    """How often one teacher is certain and right, or certain and wrong: shares of all images.

    ``raw`` counts answers of its own probabilities beyond `CERTAIN`, which a temperature alone can change;
    ``calibrated`` does so after calibration; ``wrong_at`` is the share that is wrong among the most
    confident of each of `COVERAGES`, by coverage.
    """

    name: str
    raw: tuple[float, float]
    calibrated: tuple[float, float]
    wrong_at: tuple[float, ...]
    aurc: float
    augrc: float


@dataclass(frozen=True)
class Confusion(Figures):
    """Of a class's images, the share that a teacher calls by the name of another class, most often this."""

    name: str
    called: str
    share: float
    images: int


@dataclass(frozen=True)
class ModelReport:
    """Everything that one model's logits say of it on labeled images.

    Attributes:
        temperature: what its logits are divided by for all that is called calibrated; never fitted here.
        own, calibrated: accuracy, NLL, ECE and Brier score of its probabilities, without and with it.
        intervals: at 95 %, by ``top1``, ``top5``, ``nll``, ``brier`` and ``ece``, the last three also as
            ``calibrated …``; ``certain right``, ``certain wrong``, ``aurc`` and ``augrc``, calibrated.
        adaptive_ece: over bins of equal mass, without and with the temperature.
        semantics: of wrong classes, calibrated; None without a hierarchy.
        classes: each class's images and accuracy.
        confusions: the wrong name that each class is given most often, the worst first.
        confusion: images of each class (rows) by the class they are given.
    """

    name: str
    temperature: float
    own: Metrics
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
        """All of it as plain values, for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Comparison(Figures):
    """Model b less model a on the same images: differences with their intervals, and McNemar's test."""

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
    """Judge a model by its logits.

    Args:
        temperature: the one that was stored with the model.
        hierarchy: superclasses, for what wrong classes mean.

    Raises:
        RichKDError: logits that are not finite, or labels outside of the classes.
    """
    scaled_NC = logits_NC.double() / temperature
    probs, calibrated = logits_NC.double().softmax(dim=1), scaled_NC.softmax(dim=1)
    columns = _columns(logits_NC, scaled_NC, probs, calibrated, labels_N)
    means = bootstrap_means(torch.stack(list(columns.values()), dim=1), seed=SEED, resamples=RESAMPLES)
    intervals = dict(zip(columns, means, strict=True))
    intervals |= {
        "ece": bootstrap_ece(probs, labels_N, seed=SEED, resamples=RESAMPLES),
        "calibrated ece": bootstrap_ece(calibrated, labels_N, seed=SEED, resamples=RESAMPLES),
    }
    selective = bootstrap_selective(calibrated, labels_N, seed=SEED, resamples=RESAMPLES)
    intervals |= dict(zip(("aurc", "augrc"), selective, strict=True))
    return ModelReport(
        name,
        temperature,
        measure(logits_NC, labels_N),
        measure(logits_NC, labels_N, temperature),
        intervals,
        (adaptive_ece(probs, labels_N), adaptive_ece(calibrated, labels_N)),
        (reliability(probs, labels_N), reliability(calibrated, labels_N)),
        confidence_of(name, logits_NC, scaled_NC, labels_N),
        risk_coverage(calibrated, labels_N, CURVE_POINTS),
        None if hierarchy is None else semantics(calibrated, labels_N, hierarchy),
        _by_class(logits_NC, labels_N, class_names),
        confusions_of(logits_NC, labels_N, class_names),
        _confusion(logits_NC, labels_N, len(class_names)),
    )


def compare(a: tuple[str, Tensor, float], b: tuple[str, Tensor, float], labels_N: Tensor) -> Comparison:
    """Two models, each by name, logits (N, C) and temperature, on the same images.

    Raises:
        RichKDError: logits of two shapes, or not finite.
    """
    (a_name, a_NC, a_temperature), (b_name, b_NC, b_temperature) = a, b
    a_scaled, b_scaled = a_NC.double() / a_temperature, b_NC.double() / b_temperature
    a_NS, b_NS = (
        torch.stack([right_of(z_NC, labels_N), losses_of(z_NC, labels_N)], dim=1)
        for z_NC in (a_scaled, b_scaled)
    )
    top1, nll = paired_bootstrap(a_NS, b_NS, seed=SEED, resamples=RESAMPLES)
    ece = paired_bootstrap_ece(
        a_scaled.softmax(dim=1), b_scaled.softmax(dim=1), labels_N, seed=SEED, resamples=RESAMPLES
    )
    return Comparison(a_name, b_name, top1, nll, ece, mcnemar(*discordant_counts(a_NC, b_NC, labels_N)))


def right_of(logits_NC: Tensor, labels_N: Tensor) -> Tensor:
    """1 for each image (N) whose label has the largest logit, else 0, in float64."""
    return (logits_NC.argmax(dim=1) == labels_N).double()


def losses_of(logits_NC: Tensor, labels_N: Tensor) -> Tensor:
    """The NLL of each image (N), in nats and float64."""
    return torch.nn.functional.cross_entropy(logits_NC.double(), labels_N, reduction="none")


def _columns(
    logits_NC: Tensor, scaled_NC: Tensor, probs_NC: Tensor, calibrated_NC: Tensor, labels_N: Tensor
) -> dict[str, Tensor]:
    """Figures of each image (N), whose means are the figures of all of them."""
    right_N = right_of(logits_NC, labels_N)
    certain_N = (calibrated_NC.amax(dim=1) >= CERTAIN).double()
    best_NK = logits_NC.topk(min(5, logits_NC.shape[1]), dim=1).indices
    truth_NC = torch.zeros_like(probs_NC).scatter_(1, labels_N[:, None], 1.0)
    return {
        "top1": right_N,
        "top5": (best_NK == labels_N[:, None]).any(dim=1).double(),
        "nll": losses_of(logits_NC, labels_N),
        "calibrated nll": losses_of(scaled_NC, labels_N),
        "brier": (probs_NC - truth_NC).square().sum(dim=1),
        "calibrated brier": (calibrated_NC - truth_NC).square().sum(dim=1),
        "certain right": certain_N * right_N,
        "certain wrong": certain_N * (1 - right_N),
    }


def confidence_of(name: str, logits_NC: Tensor, scaled_NC: Tensor, labels_N: Tensor) -> Confidence:
    """A model's confident answers, right and wrong, from its own and its calibrated logits."""
    raw_NC, calibrated_NC = logits_NC.double().softmax(dim=1), scaled_NC.double().softmax(dim=1)
    raw, scaled = (confident_rates(probs_NC, labels_N, CERTAIN) for probs_NC in (raw_NC, calibrated_NC))
    wrong = [
        confident_rates_at_coverage(calibrated_NC, labels_N, coverage).wrong / coverage
        for coverage in COVERAGES
    ]
    return Confidence(
        name,
        (raw.correct, raw.wrong),
        (scaled.correct, scaled.wrong),
        tuple(wrong),
        aurc(calibrated_NC, labels_N),
        augrc(calibrated_NC, labels_N),
    )


def confusions_of(logits_NC: Tensor, labels_N: Tensor, class_names: Sequence[str]) -> tuple[Confusion, ...]:
    """For each class the wrong name that a model gives it most often, where it does, the worst first."""
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
    right_N = right_of(logits_NC, labels_N)
    rows = []
    for label, name in enumerate(class_names):
        of_class_K = right_N[labels_N == label]
        if len(of_class_K):
            rows.append((name, len(of_class_K), float(of_class_K.mean())))
    return tuple(rows)
