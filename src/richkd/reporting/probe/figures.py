"""Figures of a probe, each a pure function of what teachers say of held-out images."""

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
from richkd.metrics.calibration import Reliability, reliability
from richkd.metrics.confidence import Moves, moves_at_coverage
from richkd.metrics.intervals import Interval, bootstrap_ece, bootstrap_means, mcnemar

# Coverage at which moves between certain and uncertain are shown.
MATCHED = 0.8
SEED, RESAMPLES, ECE_RESAMPLES = 0, 1000, 200
BINS = 15


@dataclass(frozen=True)
class TeacherFigures:
    """One teacher, or one fusion, on the held-out images.

    ``metrics`` are those of its own probabilities, ``calibrated`` at a temperature that is fitted, for each
    image, without the image's fold. ``intervals`` are at 95 %, by ``top1``, ``nll`` (calibrated) and ``ece``.
    """

    name: str
    metrics: Metrics
    calibrated: Metrics
    intervals: Mapping[str, Interval]

    def to_dict(self) -> dict[str, Any]:
        return {
            **self.metrics.to_dict(),
            "calibrated": self.calibrated.to_dict(),
            "intervals": {name: asdict(interval) for name, interval in self.intervals.items()},
        }


@dataclass(frozen=True)
class ClassGain:
    """A class with its share of right answers by the teacher alone and by the fused teacher.

    ``p`` is the mid-p value of McNemar's test on its images: small where the change is more than chance.
    """

    name: str
    images: int
    teacher: float
    fused: float
    p: float


def calibrated(logits_NC: Tensor, labels_N: Tensor) -> Tensor:
    """Logits (N, C) in float64 at a temperature that is fitted, for each image, without the image's fold."""
    return cross_fitted(fit_log_pool, [logits_NC], labels_N)


def judged(
    named: Mapping[str, Tensor], scaled: Mapping[str, Tensor], labels_N: Tensor
) -> tuple[TeacherFigures, ...]:
    """Teachers by name from their logits (N, C), own and `calibrated`; intervals from the same resamples."""
    columns = []
    for name, z_NC in named.items():
        columns += [(z_NC.argmax(dim=1) == labels_N).double(), losses_of(scaled[name], labels_N)]
    intervals = bootstrap_means(torch.stack(columns, dim=1), seed=SEED, resamples=RESAMPLES)
    teachers = []
    for place, (name, z_NC) in enumerate(named.items()):
        ece = bootstrap_ece(z_NC.softmax(dim=1), labels_N, seed=SEED, resamples=ECE_RESAMPLES)
        bounds = {"top1": intervals[2 * place], "nll": intervals[2 * place + 1], "ece": ece}
        teachers.append(
            TeacherFigures(name, measure(z_NC, labels_N), measure(scaled[name].float(), labels_N), bounds)
        )
    return tuple(teachers)


def moved(before_NC: Tensor, after_NC: Tensor, labels_N: Tensor) -> Moves:
    """What became of each answer, certain being the `MATCHED` share of most confident ones both times."""
    return moves_at_coverage(before_NC.softmax(dim=1), after_NC.softmax(dim=1), labels_N, MATCHED)


def diagram(logits_NC: Tensor, labels_N: Tensor) -> Reliability:
    """The reliability diagram of a teacher's own probabilities."""
    return reliability(logits_NC.double().softmax(dim=1), labels_N, BINS)


def gains_by_class(
    before_NC: Tensor, after_NC: Tensor, labels_N: Tensor, class_names: Sequence[str]
) -> tuple[ClassGain, ...]:
    """Every class that has images, the most helped first."""
    gains = []
    right_2N = torch.stack([z_NC.argmax(dim=1) == labels_N for z_NC in (before_NC, after_NC)])
    for label, name in enumerate(class_names):
        before_K, after_K = right_2N[:, labels_N == label]
        if len(before_K):
            only_before, only_after = int((before_K & ~after_K).sum()), int((after_K & ~before_K).sum())
            test = mcnemar(only_before, only_after)
            gains.append(ClassGain(name, len(before_K), share(before_K), share(after_K), test.mid_p))
    return tuple(sorted(gains, key=lambda gain: gain.teacher - gain.fused))


def alike_names(
    embeddings_CD: Tensor, class_names: Sequence[str], count: int
) -> list[tuple[str, str, float]]:
    """Pairs of classes whose text embeddings have the largest cosines, which CLIP can hardly tell apart."""
    unit_CD = torch.nn.functional.normalize(embeddings_CD.double().cpu(), dim=1)
    cosines_P, places_P = _upper(unit_CD @ unit_CD.T)
    best = cosines_P.topk(min(count, len(cosines_P))).indices
    classes = len(class_names)
    return [
        (class_names[int(p) // classes], class_names[int(p) % classes], float(cosine))
        for p, cosine in zip(places_P[best], cosines_P[best], strict=True)
    ]


def share(hit_N: Tensor) -> float:
    return float(hit_N.double().mean())


def _upper(square_CC: Tensor) -> tuple[Tensor, Tensor]:
    places_P = torch.ones_like(square_CC, dtype=torch.bool).triu(1).flatten().nonzero()[:, 0]
    return square_CC.flatten()[places_P], places_P
