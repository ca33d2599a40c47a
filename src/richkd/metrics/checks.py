"""What metrics refuse instead of guessing, and the base of their results."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from richkd.core.errors import DataError, NonFiniteError, RichKDError
from richkd.core.numerics import in_float64


@dataclass(frozen=True)
class Figures:
    """Numbers that belong together."""

    def to_dict(self) -> dict[str, Any]:
        """The fields by name, ready for JSON."""
        return asdict(self)


def check_pair(a_NS: Tensor, b_NS: Tensor) -> None:
    """Refuse figures of two models that cannot be of the same images."""
    if a_NS.shape != b_NS.shape:
        raise DataError(
            "Two models are compared on the same images and classes",
            got=f"shapes {tuple(a_NS.shape)} and {tuple(b_NS.shape)}",
            fix="run both models on one split with one list of classes.",
        )


def checked_scores(scores_NC: Tensor, columns: str = "classes") -> Tensor:
    """Scores in float64, after refusing what would silently give a wrong figure (NaN sorts anywhere)."""
    if scores_NC.ndim != 2 or 0 in scores_NC.shape:
        raise DataError(
            f"Metrics need a matrix of images × {columns} with at least one of each",
            got=f"shape {tuple(scores_NC.shape)}",
            fix="stack the batches' outputs along the first dimension.",
        )
    bad_N = ~torch.isfinite(scores_NC).all(1)
    if bool(bad_N.any()):
        raise NonFiniteError(
            f"Metrics need finite numbers for all images and {columns}",
            got=f"NaN or infinity for {int(bad_N.sum())} of {len(bad_N)} images, "
            f"first for image {int(bad_N.nonzero()[0])}",
            fix="look for the NaN in the model or its input; it is no prediction.",
        )
    return in_float64(scores_NC.detach())


def checked(scores_NC: Tensor, labels_N: Tensor) -> tuple[Tensor, Tensor]:
    """Scores in float64 and labels in int64 on one device, after refusing labels that do not fit them."""
    scores_NC = checked_scores(scores_NC)
    if labels_N.shape != scores_NC.shape[:1]:
        raise DataError(
            "Metrics need one label for each image",
            got=f"labels of shape {tuple(labels_N.shape)} for {len(scores_NC)} images",
            fix="take labels and outputs from the same images, in the same order.",
        )
    least, most = int(labels_N.min()), int(labels_N.max())
    if least < 0 or most >= scores_NC.shape[1]:
        raise DataError(
            f"Labels must be class positions from 0 to {scores_NC.shape[1] - 1}",
            got=f"labels from {least} to {most}",
            fix="use the class list that the model was trained with.",
        )
    return scores_NC, labels_N.to(scores_NC.device, torch.int64)


def checked_probs(probs_NC: Tensor, labels_N: Tensor) -> tuple[Tensor, Tensor]:
    """As `checked`, also refusing rows that are no distributions, with a guess at what they are."""
    probs_NC, labels_N = checked(probs_NC, labels_N)
    least, most = float(probs_NC.min()), float(probs_NC.max())
    sums_N = probs_NC.sum(1)
    # Half-precision probabilities of many classes sum to one within about 1e-3.
    if least >= 0 and float((sums_N - 1).abs().max()) <= 1e-3:
        return probs_NC, labels_N
    if least < -1.001 or most > 1.001:
        kind, fix = "logits", "pass softmax(logits/temperature)."
    else:
        kind, fix = "cosines", "pass softmax(logit_scale · cosines), with CLIP's own logit scale."
    raise RichKDError(
        "Argument 'probs_NC' must hold a distribution over the classes in each row",
        got=f"values from {least:.4g} to {most:.4g}, with row sums from {float(sums_N.min()):.4g} to "
        f"{float(sums_N.max()):.4g}: they look like {kind}",
        fix=fix,
    )
