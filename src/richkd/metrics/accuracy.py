"""Accuracy, calibration and temperature of stored logits, in float64 and with refusals instead of guesses."""

from __future__ import annotations

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
    """What one model does on ``n`` images.

    ``top1`` and ``top5`` are fractions in [0, 1], ``nll`` is in nats, ``ece`` in [0, 1] (15 bins), ``brier``
    in [0, 2].
    """

    top1: float
    top5: float
    nll: float
    ece: float
    brier: float
    n: int

    def to_dict(self) -> dict[str, float | int]:
        """The fields by name, ready for JSON."""
        return asdict(self)


def accuracy(logits_NC: Tensor, labels_N: Tensor, k: int = 1) -> float:
    """Fraction of images whose label is among the k highest logits; k beyond C counts every image.

    Of equal logits the lower class comes first, so that a constant predictor is right on class 0 alone.

    Raises:
        RichKDError: where logits are not finite, labels are outside the classes, shapes disagree, or k < 1.
    """
    if k < 1:
        raise ConfigError("Argument 'k' must be at least 1", got=repr(k), fix="use 1 or 5.")
    logits_NC, labels_N = checked(logits_NC, labels_N)
    own_N1 = logits_NC.gather(1, labels_N[:, None])
    before_NC = torch.arange(logits_NC.shape[1], device=logits_NC.device) < labels_N[:, None]
    rank_N = ((logits_NC > own_N1) | ((logits_NC == own_N1) & before_NC)).sum(1)
    return float((rank_N < k).double().mean())


def nll(logits_NC: Tensor, labels_N: Tensor) -> float:
    """Negative log-likelihood of the labels, −mean log softmax(z)_y, in nats.

    Raises:
        RichKDError: where logits are not finite, labels are outside the classes, or shapes disagree.
    """
    logits_NC, labels_N = checked(logits_NC, labels_N)
    log_NC = F.log_softmax(logits_NC, dim=-1)
    return -float(log_NC.gather(1, labels_N[:, None]).mean())


def brier(probs_NC: Tensor, labels_N: Tensor) -> float:
    """Brier score of all classes, mean_N Σ_k (p_k − [y = k])², in [0, 2] (Brier 1950).

    Raises:
        RichKDError: where rows are not distributions, labels are outside the classes, or shapes disagree.
    """
    probs_NC, labels_N = checked_probs(probs_NC, labels_N)
    own_N = probs_NC.gather(1, labels_N[:, None])[:, 0]
    # (p_y − 1)² = p_y² − 2·p_y + 1 saves the one-hot matrix.
    return float((probs_NC.square().sum(1) - 2 * own_N + 1).mean())


def agreement(a_logits_NC: Tensor, b_logits_NC: Tensor) -> float:
    """Fraction of images on which two models choose the same class, such as student and teacher.

    Raises:
        RichKDError: where either model's logits are not finite, or shapes disagree.
    """
    check_pair(a_logits_NC, b_logits_NC)
    a_NC, b_NC = checked_scores(a_logits_NC), checked_scores(b_logits_NC)
    return float((a_NC.argmax(1) == b_NC.argmax(1)).double().mean())


def measure(logits_NC: Tensor, labels_N: Tensor, temperature: float = 1.0) -> Metrics:
    """All `Metrics` of a model's logits, its probabilities being softmax(z/temperature).

    Raises:
        RichKDError: where logits are not finite, labels are outside the classes, shapes disagree, or the
            temperature is not positive.
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
