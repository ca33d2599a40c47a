"""Input checks that all metrics share, and the base class of their results."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from richkd.core.errors import DataError, NonFiniteError, RichKDError
from richkd.core.numerics import in_float64


@dataclass(frozen=True)
class Figures:
    """Base class of metric results: a frozen dataclass that can be written as JSON.

    Example:
        >>> from richkd.metrics.intervals import mcnemar_test
        >>> mcnemar_test(5, 0).to_dict()
        {'only_a': 5, 'only_b': 0, 'exact': 0.0625, 'mid_p': 0.03125}
    """

    def to_dict(self) -> dict[str, Any]:
        """The fields as a dictionary that can be written as JSON."""
        return asdict(self)


def check_pair(a_NS: Tensor, b_NS: Tensor) -> None:
    """Check that the outputs of two models have the same shape, so that they can be compared per image.

    Raises:
        DataError: the shapes differ.

    Example:
        >>> check_pair(torch.zeros(5, 3), torch.ones(5, 3))
    """
    if a_NS.shape != b_NS.shape:
        raise DataError(
            "Two models must be compared on the same images and classes",
            got=f"shapes {tuple(a_NS.shape)} and {tuple(b_NS.shape)}",
            fix="run both models on the same split with the same class list.",
        )


def checked_scores(scores_NC: Tensor, columns: str = "classes") -> Tensor:
    """Check that the scores are a finite, non-empty matrix, and return them in float64.

    The check is needed because NaN has no defined place in a sorted order and would give a wrong result
    without an error.

    Args:
        scores_NC: one row per image.
        columns: what a column stands for, used in messages.

    Raises:
        DataError: the scores are not a matrix, or a dimension is empty.
        NonFiniteError: a score is NaN or infinite.

    Example:
        >>> checked_scores(torch.tensor([[1.0, 2.0]])).dtype == torch.float64
        True
    """
    if scores_NC.ndim != 2 or 0 in scores_NC.shape:
        raise DataError(
            f"Metrics need a matrix of images × {columns} with at least one of each",
            got=f"shape {tuple(scores_NC.shape)}",
            fix="concatenate the outputs of the batches along the first dimension.",
        )
    bad_N = ~torch.isfinite(scores_NC).all(1)
    if bool(bad_N.any()):
        raise NonFiniteError(
            f"Metrics need finite numbers for all images and {columns}",
            got=f"NaN or infinity for {int(bad_N.sum())} of {len(bad_N)} images, "
            f"first for image {int(bad_N.nonzero()[0])}",
            fix="find the cause of the NaN or infinity in the model or its input.",
        )
    return in_float64(scores_NC.detach())


def checked(scores_NC: Tensor, labels_N: Tensor) -> tuple[Tensor, Tensor]:
    """Check scores and labels, and return the scores in float64 and the labels in int64 on one device.

    Raises:
        DataError: as `checked_scores`; there is not exactly one label per image; or a label is not a valid
            class index.
        NonFiniteError: a score is NaN or infinite.

    Example:
        >>> scores_NC, labels_N = checked(torch.eye(2), torch.tensor([0, 1], dtype=torch.int32))
        >>> scores_NC.dtype == torch.float64, labels_N.dtype == torch.int64
        (True, True)
    """
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
            f"Labels must be class indices from 0 to {scores_NC.shape[1] - 1}",
            got=f"labels from {least} to {most}",
            fix="use the class list that the model was trained with.",
        )
    return scores_NC, labels_N.to(scores_NC.device, torch.int64)


def checked_probs(probs_NC: Tensor, labels_N: Tensor) -> tuple[Tensor, Tensor]:
    """As `checked`, and also check that each row is a probability distribution (sum within 1e-3 of 1).

    Raises:
        RichKDError: as `checked`, or a row is not a distribution; the message says whether the values look
            like logits or like cosine similarities.

    Example:
        >>> probs_NC, _ = checked_probs(torch.tensor([[0.5, 0.5]]), torch.tensor([1]))
        >>> probs_NC.tolist()
        [[0.5, 0.5]]
    """
    probs_NC, labels_N = checked(probs_NC, labels_N)
    least, most = float(probs_NC.min()), float(probs_NC.max())
    sums_N = probs_NC.sum(1)
    # Half-precision probabilities of many classes sum to one within about 1e-3.
    if least >= 0 and float((sums_N - 1).abs().max()) <= 1e-3:
        return probs_NC, labels_N
    if least < -1.001 or most > 1.001:
        kind, fix = "logits", "pass softmax(logits/temperature)."
    else:
        kind, fix = "cosines", "pass softmax(logit_scale · cosines), with the logit scale of the CLIP model."
    raise RichKDError(
        "Argument 'probs_NC' must hold a probability distribution over the classes in each row",
        got=f"values from {least:.4g} to {most:.4g}, with row sums from {float(sums_N.min()):.4g} to "
        f"{float(sums_N.max()):.4g}: they look like {kind}",
        fix=fix,
    )
