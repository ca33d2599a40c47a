"""Accuracy, likelihood and calibration of stored logits, computed in float64.

Invalid input raises an error; nothing is corrected silently.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from richkd.core.errors import ConfigError
from richkd.core.numerics import check_temperature
from richkd.metrics.calibration import ece
from richkd.metrics.checks import check_pair, checked, checked_probs, checked_scores


@dataclass(frozen=True)
class Metrics:
    """The metrics of one model; made by `measure`.

    Attributes:
        top1: top-1 accuracy, a fraction in [0, 1].
        top5: top-5 accuracy, a fraction in [0, 1].
        nll: negative log-likelihood in nats.
        ece: expected calibration error in [0, 1], with 15 bins.
        brier: Brier score in [0, 2].
        n: number of images.
    """

    top1: float
    top5: float
    nll: float
    ece: float
    brier: float
    n: int

    def to_dict(self) -> dict[str, float | int]:
        """The fields as a dictionary that can be written as JSON."""
        return asdict(self)


def accuracy(logits_NC: Tensor, labels_N: Tensor, k: int = 1) -> float:
    """Top-k accuracy: the fraction of images whose label is among the k highest logits.

    If k exceeds the number of classes, every image counts as correct. Equal logits are ranked by class
    index, so a constant predictor is correct on class 0 only.

    Raises:
        RichKDError: the logits are not finite, a label is not a valid class, the shapes do not match, or
            k < 1.

    Example:
        >>> logits_NC = torch.tensor([[0.1, 0.7, 0.2], [0.8, 0.1, 0.1]])
        >>> accuracy(logits_NC, torch.tensor([1, 2]))
        0.5
        >>> accuracy(logits_NC, torch.tensor([1, 2]), k=3)
        1.0
    """
    if k < 1:
        raise ConfigError("Argument 'k' must be at least 1", got=repr(k), fix="use 1 or 5.")
    logits_NC, labels_N = checked(logits_NC, labels_N)
    return float(hits(logits_NC, labels_N, k).double().mean())


def hits(logits_NC: Tensor, labels_N: Tensor, k: int) -> Tensor:
    """Whether the label of each image (N) is among its k highest logits; equal ones are ranked by class.

    Example:
        >>> hits(torch.zeros(3, 4), torch.tensor([0, 1, 2]), k=2).tolist()
        [True, True, False]
    """
    true_N1 = logits_NC.gather(1, labels_N[:, None])
    before_NC = torch.arange(logits_NC.shape[1], device=logits_NC.device) < labels_N[:, None]
    rank_N = ((logits_NC > true_N1) | ((logits_NC == true_N1) & before_NC)).sum(1)
    return rank_N < k


def nll(logits_NC: Tensor, labels_N: Tensor) -> float:
    """Negative log-likelihood of the labels, −mean log softmax(z)_y, in nats; lower is better.

    Raises:
        RichKDError: the logits are not finite, a label is not a valid class, or the shapes do not match.

    Example:
        >>> round(nll(torch.zeros(2, 4), torch.tensor([0, 3])), 4)  # uniform over 4 classes: ln 4
        1.3863
    """
    logits_NC, labels_N = checked(logits_NC, labels_N)
    log_NC = F.log_softmax(logits_NC, dim=-1)
    return -float(log_NC.gather(1, labels_N[:, None]).mean())


def brier(probs_NC: Tensor, labels_N: Tensor) -> float:
    """Brier score over all classes, mean_N Σ_k (p_k − [y = k])², in [0, 2]; lower is better.

    Source: Brier 1950, "Verification of forecasts expressed in terms of probability".

    Raises:
        RichKDError: a row is not a distribution, a label is not a valid class, or the shapes do not match.

    Example:
        >>> brier(torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 0]))  # one right, one wrong
        1.0
    """
    probs_NC, labels_N = checked_probs(probs_NC, labels_N)
    true_N = probs_NC.gather(1, labels_N[:, None])[:, 0]
    # (p_y − 1)² = p_y² − 2·p_y + 1, so no one-hot matrix is needed.
    return float((probs_NC.square().sum(1) - 2 * true_N + 1).mean())


def near_chance(top1: float, classes: int, images: int) -> bool:
    """Whether a top-1 accuracy is so low that the model may be guessing, or has its classes in another order.

    The limit is c + max(2·√(c·(1 − c)/images), 0.05·(1 − c)) with the chance level c = 1/classes: two
    binomial standard errors of a guessing model, or a twentieth of the distance from chance to 1, whichever
    is larger. For two classes a perfect model is above the limit from 5 images on; for more classes, earlier.

    Args:
        top1: top-1 accuracy, a fraction in [0, 1].
        classes: number of classes; with a single class every accuracy is near chance.
        images: number of images on which the accuracy was measured, ≥ 1.

    Raises:
        ConfigError: no class or no image.

    Example:
        >>> near_chance(0.35, classes=3, images=1000), near_chance(0.9, classes=3, images=1000)
        (True, False)
        >>> near_chance(0.02, classes=100, images=1000)  # twice chance, but below the limit of 0.0595
        True
    """
    if classes < 1 or images < 1:
        raise ConfigError(
            "An accuracy can be compared with chance only for at least one class and one image",
            got=f"{classes} classes, {images} images",
            fix="pass the numbers of classes and images of the measurement.",
        )
    chance = 1 / classes
    margin = max(2 * math.sqrt(chance * (1 - chance) / images), 0.05 * (1 - chance))
    return top1 <= chance + margin


def agreement(a_logits_NC: Tensor, b_logits_NC: Tensor) -> float:
    """Fraction of images for which two models, such as student and teacher, predict the same class.

    Raises:
        RichKDError: the logits of a model are not finite, or the shapes do not match.

    Example:
        >>> student_NC = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
        >>> agreement(student_NC, torch.tensor([[3.0, 0.0], [2.0, 1.0]]))
        0.5
    """
    check_pair(a_logits_NC, b_logits_NC)
    a_NC, b_NC = checked_scores(a_logits_NC), checked_scores(b_logits_NC)
    return float((a_NC.argmax(1) == b_NC.argmax(1)).double().mean())


def measure(logits_NC: Tensor, labels_N: Tensor, temperature: float = 1.0) -> Metrics:
    """Compute all `Metrics` of a model from its logits z, with the probabilities softmax(z/temperature).

    Raises:
        RichKDError: the logits are not finite, a label is not a valid class, the shapes do not match, or
            the temperature is not a positive finite number.

    Example:
        >>> metrics = measure(torch.tensor([[9.0, 0.0], [9.0, 0.0]]), torch.tensor([0, 1]))
        >>> metrics.top1, metrics.n, round(metrics.ece, 2)
        (0.5, 2, 0.5)
    """
    check_temperature(temperature)
    logits_NC, labels_N = checked(logits_NC, labels_N)
    scaled_NC = logits_NC / temperature
    probs_NC = F.softmax(scaled_NC, dim=-1)
    return Metrics(
        top1=accuracy(scaled_NC, labels_N),
        top5=accuracy(scaled_NC, labels_N, k=5),
        nll=nll(scaled_NC, labels_N),
        ece=ece(probs_NC, labels_N),
        brier=brier(probs_NC, labels_N),
        n=len(labels_N),
    )
