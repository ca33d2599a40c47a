"""Metrics of a probe: pure functions of the teachers' logits for held-out images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from richkd.evaluate.model_report import losses_of
from richkd.fusion.fit import fit_log_pool
from richkd.fusion.select import cross_fitted
from richkd.metrics.accuracy import Metrics, measure
from richkd.metrics.calibration import Reliability, measure_reliability
from richkd.metrics.confidence import Moves, moves_at_coverage
from richkd.metrics.ece_intervals import bootstrap_ece
from richkd.metrics.intervals import RESAMPLES, RESAMPLING_SEED, Interval, bootstrap_means, mcnemar_test

# Coverage that defines a confident prediction when two models are compared.
MATCHED = 0.8
ECE_RESAMPLES = 200
BINS = 15


@dataclass(frozen=True)
class TeacherFigures:
    """Metrics of one teacher or one fusion on the held-out images; made by `measure_teachers`.

    Attributes:
        name: name of the teacher or fusion.
        metrics: metrics of its probabilities as they are.
        calibrated: metrics with a cross-fitted temperature: for each image the temperature is fitted without
            the image's fold.
        intervals: 95% confidence intervals of ``top1``, ``nll`` (calibrated) and ``ece``.
    """

    name: str
    metrics: Metrics
    calibrated: Metrics
    intervals: Mapping[str, Interval]

    def to_dict(self) -> dict[str, Any]:
        """The fields as a dictionary that can be written as JSON; ``metrics`` are at the top level."""
        return {
            **self.metrics.to_dict(),
            "calibrated": self.calibrated.to_dict(),
            "intervals": {name: asdict(interval) for name, interval in self.intervals.items()},
        }


@dataclass(frozen=True)
class ClassGain:
    """Accuracy on one class of the teacher and of the fused teacher; made by `gains_by_class`.

    Attributes:
        name: name of the class.
        images: number of images of the class.
        teacher: accuracy of the teacher on these images.
        fused: accuracy of the fused teacher on these images.
        p: mid-p-value of McNemar's test on these images; small if the difference is probably not random.
    """

    name: str
    images: int
    teacher: float
    fused: float
    p: float


def calibrated(logits_NC: Tensor, labels_N: Tensor) -> Tensor:
    """Logits (N, C) in float64, divided by a cross-fitted temperature.

    For each image the temperature is fitted without the image's fold.

    Example:
        >>> logits_NC = 9 * torch.eye(2)[torch.arange(200) % 2]  # overconfident: correct on 160 of 200
        >>> labels_N = (torch.arange(200) + (torch.arange(200) < 40)) % 2
        >>> bool((calibrated(logits_NC, labels_N).amax(dim=1) < 4).all())
        True
    """
    return cross_fitted(fit_log_pool, [logits_NC], labels_N)


def measure_teachers(
    logits: Mapping[str, Tensor], scaled: Mapping[str, Tensor], labels_N: Tensor
) -> tuple[TeacherFigures, ...]:
    """Compute the metrics of teachers. The intervals of all teachers use the same resampled images.

    Args:
        logits: logits (N, C) of each teacher at the scale of its probabilities, by name.
        scaled: `calibrated` logits (N, C) of each teacher, by name.
        labels_N: labels of the images.

    Example:
        >>> labels_N = torch.arange(4) % 2
        >>> logits = {"teacher": 2 * torch.eye(2)[labels_N]}
        >>> [teacher] = measure_teachers(logits, {"teacher": logits["teacher"].double()}, labels_N)
        >>> teacher.name, teacher.metrics.top1, teacher.intervals["top1"].low
        ('teacher', 1.0, 1.0)
    """
    columns = []
    for name, z_NC in logits.items():
        columns += [(z_NC.argmax(dim=1) == labels_N).double(), losses_of(scaled[name], labels_N)]
    intervals = bootstrap_means(torch.stack(columns, dim=1), seed=RESAMPLING_SEED, resamples=RESAMPLES)
    teachers = []
    for place, (name, z_NC) in enumerate(logits.items()):
        ece = bootstrap_ece(z_NC.softmax(dim=1), labels_N, seed=RESAMPLING_SEED, resamples=ECE_RESAMPLES)
        bounds = {"top1": intervals[2 * place], "nll": intervals[2 * place + 1], "ece": ece}
        teachers.append(
            TeacherFigures(name, measure(z_NC, labels_N), measure(scaled[name].float(), labels_N), bounds)
        )
    return tuple(teachers)


def confidence_moves(before_NC: Tensor, after_NC: Tensor, labels_N: Tensor) -> Moves:
    """Count how the predictions of two models differ in correctness and confidence.

    The most confident fraction `MATCHED` of each model's predictions counts as confident.

    Args:
        before_NC: logits of the first model.
        after_NC: logits of the second model.
        labels_N: labels of the images.

    Example:
        >>> logits_NC = torch.tensor([[5.0, 0.0], [4.0, 0.0], [3.0, 0.0], [2.0, 0.0], [1.0, 0.0]])
        >>> moves = confidence_moves(logits_NC, logits_NC, torch.zeros(5, dtype=torch.long))
        >>> moves.counts[0][0], moves.counts[1][1]  # 4 of 5 images are confident, before and after
        (4.0, 1.0)
    """
    return moves_at_coverage(before_NC.softmax(dim=1), after_NC.softmax(dim=1), labels_N, MATCHED)


def reliability_of(logits_NC: Tensor, labels_N: Tensor) -> Reliability:
    """Reliability diagram with `BINS` bins, without temperature.

    Example:
        >>> diagram = reliability_of(torch.zeros(4, 2), torch.tensor([0, 0, 0, 1]))
        >>> [count for count in diagram.count if count], diagram.ece
        ([4], 0.25)
    """
    return measure_reliability(logits_NC.double().softmax(dim=1), labels_N, BINS)


def gains_by_class(
    before_NC: Tensor, after_NC: Tensor, labels_N: Tensor, class_names: Sequence[str]
) -> tuple[ClassGain, ...]:
    """Accuracy of two models on each class that has images, the largest gain first.

    Args:
        before_NC: logits of the teacher.
        after_NC: logits of the fused teacher.
        labels_N: labels of the images.
        class_names: names of the classes.

    Example:
        >>> before_NC, after_NC = torch.eye(2)[[0, 0, 0]], torch.eye(2)[[0, 1, 0]]
        >>> gains = gains_by_class(before_NC, after_NC, torch.tensor([0, 1, 1]), ("cat", "dog"))
        >>> [(gain.name, gain.teacher, gain.fused) for gain in gains]
        [('dog', 0.0, 0.5), ('cat', 1.0, 1.0)]
    """
    gains = []
    correct_2N = torch.stack([z_NC.argmax(dim=1) == labels_N for z_NC in (before_NC, after_NC)])
    for label, name in enumerate(class_names):
        before_K, after_K = correct_2N[:, labels_N == label]
        if len(before_K):
            only_before, only_after = int((before_K & ~after_K).sum()), int((after_K & ~before_K).sum())
            test = mcnemar_test(only_before, only_after)
            gains.append(ClassGain(name, len(before_K), share(before_K), share(after_K), test.mid_p))
    return tuple(sorted(gains, key=lambda gain: gain.teacher - gain.fused))


def similar_names(
    embeddings_CD: Tensor, class_names: Sequence[str], count: int
) -> list[tuple[str, str, float]]:
    """Pairs of class names with the most similar text embeddings, which CLIP can confuse easily.

    Args:
        embeddings_CD: text embedding of each class.
        class_names: names of the classes.
        count: maximum number of pairs.

    Returns:
        Both names and the cosine similarity of each pair, the most similar pair first.

    Example:
        >>> embeddings_CD = torch.tensor([[1.0, 0.0], [0.0, 1.0], [3.0, 4.0]])
        >>> [(a, b, round(cosine, 2)) for a, b, cosine in similar_names(embeddings_CD, "abc", count=2)]
        [('b', 'c', 0.8), ('a', 'c', 0.6)]
    """
    unit_CD = torch.nn.functional.normalize(embeddings_CD.double().cpu(), dim=1)
    cosines_P, places_P = _upper(unit_CD @ unit_CD.T)
    best = cosines_P.topk(min(count, len(cosines_P))).indices
    classes = len(class_names)
    return [
        (class_names[int(p) // classes], class_names[int(p) % classes], float(cosine))
        for p, cosine in zip(places_P[best], cosines_P[best], strict=True)
    ]


def share(hit_N: Tensor) -> float:
    """Fraction of images for which a condition holds.

    Example:
        >>> share(torch.tensor([True, False, False, False]))
        0.25
    """
    return float(hit_N.double().mean())


def _upper(square_CC: Tensor) -> tuple[Tensor, Tensor]:
    """The P values above the diagonal, and their positions in the flattened matrix."""
    places_P = torch.ones_like(square_CC, dtype=torch.bool).triu(1).flatten().nonzero()[:, 0]
    return square_CC.flatten()[places_P], places_P
