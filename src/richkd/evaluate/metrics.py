"""Accuracy, calibration and temperature of stored logits, in float64 and with refusals instead of guesses."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from richkd.errors import ConfigError, DataError, NonFiniteError, RichKDError
from richkd.losses.logits import check_temperature, in_float64

TEMPERATURE_RANGE = (0.01, 100.0)


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


def ece(probs_NC: Tensor, labels_N: Tensor, bins: int = 15) -> float:
    """Expected calibration error Σ_b (n_b/N)·|acc(b) − conf(b)| over equal-width bins of confidence.

    Bin b holds confidences in [b/bins, (b+1)/bins); a confidence of exactly 1.0 belongs to the last bin. A
    perfectly calibrated model scores about 0.012 on 10,000 images and 0.038 on 1,000: smaller differences
    are noise. Source: Guo et al. 2017, "On calibration of modern neural networks", equation 3.

    Raises:
        RichKDError: where rows are not distributions (the message says whether they look like logits or
            like cosines), labels are outside the classes, shapes disagree, or bins < 1.
    """
    check_bins(bins)
    probs_NC, labels_N = checked_probs(probs_NC, labels_N)
    # On the CPU, where the sum of each bin has a fixed order.
    confidence_N, guess_N = (x.cpu() for x in probs_NC.max(1))
    bin_N = bin_of(confidence_N, bins)
    # (n_b/N)·|acc − conf| is the absolute sum of (correct − confidence) in b, divided by N.
    gap_N = (guess_N == labels_N.cpu()).double() - confidence_N
    gaps = torch.zeros(bins, dtype=torch.float64).index_add_(0, bin_N, gap_N)
    return float(gaps.abs().sum() / len(gap_N))


def fit_temperature(logits_NC: Tensor, labels_N: Tensor) -> float:
    """The T in [0.01, 100] that minimises NLL(z/T): fit it on held-out images, never on the test set.

    The NLL is convex in β = 1/T, with the derivative mean E_p[z − z_y] for p = softmax(βz), whose root is
    found by Newton steps inside a shrinking bracket, to 1e-10 relative. Where every image is right the NLL
    falls without end and T is 0.01; where the logits are worse than none T is 100; where all T are equally
    good (constant rows) T is 1. Scale cosines by CLIP's logit scale first, since they alone would need a T
    of about 0.01. Source: Guo et al. 2017, section 4.2.

    Raises:
        RichKDError: where logits are not finite, labels are outside the classes, or shapes disagree.
    """
    logits_NC, labels_N = checked(logits_NC, labels_N)
    above_NC = logits_NC - logits_NC.gather(1, labels_N[:, None])

    def slope_and_curvature(beta: float) -> tuple[float, float]:
        probs_NC = F.softmax(beta * above_NC, dim=-1)
        mean_N = (probs_NC * above_NC).sum(1)
        variance_N = (probs_NC * (above_NC - mean_N[:, None]).square()).sum(1)
        return float(mean_N.mean()), float(variance_N.mean())

    if not above_NC.any():
        return 1.0
    coldest, hottest = TEMPERATURE_RANGE
    low, high = 1 / hottest, 1 / coldest
    if slope_and_curvature(high)[0] <= 0:
        return coldest
    if slope_and_curvature(low)[0] >= 0:
        return hottest
    beta, last_step = 1.0, high
    for _ in range(200):
        slope, curvature = slope_and_curvature(beta)
        low, high = (low, beta) if slope > 0 else (beta, high)
        newton = beta - slope / curvature if curvature > 0 else high
        # A Newton step that leaves the bracket, or no longer shrinks, gives way to bisection.
        usable = low <= newton <= high and abs(newton - beta) <= last_step / 2
        previous, beta = beta, newton if usable else (low * high) ** 0.5
        last_step = abs(beta - previous)
        if last_step <= 1e-10 * beta:
            break
    return 1 / beta


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


def check_bins(bins: int) -> None:
    """Refuse fewer than one bin of confidence."""
    if bins < 1:
        raise ConfigError("Argument 'bins' must be at least 1", got=repr(bins), fix="use 15.")


def bin_of(confidence_N: Tensor, bins: int) -> Tensor:
    """Position of each confidence among ``bins`` equal-width bins of [0, 1]; exactly 1.0 is in the last."""
    inner_edges = torch.linspace(0, 1, bins + 1, dtype=torch.float64)[1:-1]
    return torch.bucketize(confidence_N, inner_edges, right=True)


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
