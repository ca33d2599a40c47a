"""Calibration: compare the confidence of a model with its accuracy, and fit a temperature.

The confidence of an image is the highest probability of its row. A model is calibrated if, among all images
of confidence c, a fraction c is classified correctly.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from richkd.core.errors import ConfigError
from richkd.metrics.checks import Figures, checked, checked_probs
from richkd.metrics.confidence import confidence_and_correct, ranked
from richkd.metrics.multipliers import fit_multipliers


@dataclass(frozen=True)
class Reliability(Figures):
    """The data of a reliability diagram with equal-width bins; made by `measure_reliability`.

    Attributes:
        edges: the bin edges, from 0 to 1; one more than there are bins.
        count: number of images per bin.
        accuracy: accuracy per bin; None for an empty bin.
        confidence: mean confidence per bin; None for an empty bin.
        ece: expected calibration error, see `richkd.metrics.calibration.ece`.
        mce: maximum calibration error, the largest |accuracy − confidence| of a bin.
    """

    edges: tuple[float, ...]
    count: tuple[int, ...]
    accuracy: tuple[float | None, ...]
    confidence: tuple[float | None, ...]
    ece: float
    mce: float


def measure_reliability(probs_NC: Tensor, labels_N: Tensor, bins: int = 15) -> Reliability:
    """Compute a reliability diagram with equal-width bins, with ECE and MCE.

    MCE = max_b |acc(b) − conf(b)| over the non-empty bins. A bin with few images can make it large by
    chance. Source: Naeini et al. 2015, "Obtaining well calibrated probabilities using Bayesian binning".

    Raises:
        RichKDError: as `confidence_and_correct`, or bins < 1.

    Example:
        >>> probs_NC = torch.tensor([[0.75, 0.25], [0.75, 0.25]])
        >>> diagram = measure_reliability(probs_NC, torch.tensor([0, 1]), bins=2)
        >>> diagram.count, diagram.accuracy, diagram.confidence
        ((0, 2), (None, 0.5), (None, 0.75))
        >>> diagram.mce
        0.25
    """
    check_bins(bins)
    confidence_N, correct_N = confidence_and_correct(probs_NC, labels_N)
    bin_N = bin_of(confidence_N, bins)
    count = torch.bincount(bin_N, minlength=bins)
    hits = torch.bincount(bin_N, correct_N.double(), minlength=bins)
    confidence = torch.bincount(bin_N, confidence_N, minlength=bins)
    gaps = (hits - confidence).abs()

    def means(sums: Tensor) -> tuple[float | None, ...]:
        return tuple(s / n if n else None for s, n in zip(sums.tolist(), count.tolist(), strict=True))

    return Reliability(
        edges=tuple(torch.linspace(0, 1, bins + 1, dtype=torch.float64).tolist()),
        count=tuple(count.tolist()),
        accuracy=means(hits),
        confidence=means(confidence),
        ece=float(gaps.sum() / len(bin_N)),
        mce=float((gaps / count.clamp_min(1)).max()),
    )


def adaptive_ece(probs_NC: Tensor, labels_N: Tensor, bins: int = 15) -> float:
    """Expected calibration error over equal-mass bins, in [0, 1]; lower is better.

    The images are sorted by confidence and each bin takes N/bins of them:
    (1/N) Σ_b |Σ_{i∈b} (1[ŷ = y] − c)|. An image on the border of two bins is split between them. If images
    of equal confidence span several bins, each bin takes the same mixture of them. Source: Nguyen and
    O'Connor 2015, "Posterior calibration and exploratory analysis for natural language processing models".

    Raises:
        RichKDError: as `confidence_and_correct`, or bins < 1.

    Example:
        >>> probs_NC = torch.tensor([[0.75, 0.25], [1.0, 0.0]])
        >>> adaptive_ece(probs_NC, torch.tensor([1, 0]), bins=2)  # (|0 − 0.75| + |1 − 1|) / 2
        0.375
    """
    check_bins(bins)
    ranking = ranked(probs_NC, labels_N)
    sizes_G, errors_G = np.diff(ranking.ends_G1), np.diff(ranking.errors_G1)
    gaps_G1 = np.concatenate([[0.0], np.cumsum(sizes_G * (1 - ranking.confidence_G) - errors_G)])
    borders = np.linspace(0, ranking.n, bins + 1)
    return float(np.abs(np.diff(np.interp(borders, ranking.ends_G1, gaps_G1))).sum() / ranking.n)


def ece(probs_NC: Tensor, labels_N: Tensor, bins: int = 15) -> float:
    """Expected calibration error Σ_b (n_b/N)·|acc(b) − conf(b)| over equal-width bins of confidence.

    The range is [0, 1]; lower is better. Bin b holds the confidences in [b/bins, (b+1)/bins); the last bin
    also holds 1.0. A perfectly calibrated model scores about 0.012 on 10,000 images and 0.038 on 1,000
    images, so smaller differences are noise. Source: Guo et al. 2017, "On calibration of modern neural
    networks", equation 3.

    Raises:
        RichKDError: a row is not a distribution (the message says whether the values look like logits or
            like cosine similarities), a label is not a valid class, the shapes do not match, or bins < 1.

    Example:
        >>> probs_NC = torch.tensor([[0.75, 0.25], [0.75, 0.25]])
        >>> ece(probs_NC, torch.tensor([0, 1]))  # confidence 0.75, accuracy 0.5
        0.25
    """
    check_bins(bins)
    probs_NC, labels_N = checked_probs(probs_NC, labels_N)
    # On the CPU the summation order within a bin is fixed, so the result is deterministic.
    confidence_N, guess_N = (x.cpu() for x in probs_NC.max(1))
    bin_N = bin_of(confidence_N, bins)
    # (n_b/N)·|acc − conf| is the absolute sum of (correct − confidence) in b, divided by N.
    gap_N = (guess_N == labels_N.cpu()).double() - confidence_N
    gaps = torch.zeros(bins, dtype=torch.float64).index_add_(0, bin_N, gap_N)
    return float(gaps.abs().sum() / len(gap_N))


def fit_temperature(logits_NC: Tensor, labels_N: Tensor) -> float:
    """Temperature scaling: the T that minimizes NLL(z/T) on held-out images, with a weak prior around 1.

    Fit T on held-out images, never on the test set. It is the reciprocal of the factor that
    `fit_multipliers` fits, with the center 1. Without the prior, T would be zero if all images were
    classified correctly, and 8 images would be enough for a T that multiplies the NLL of other images by
    100. With N images in N + 16 parts, the data decide. If the rows are constant, T is 1.

    Multiply cosine similarities by CLIP's logit scale first. Source: Guo et al. 2017, section 4.2, without
    the prior.

    Raises:
        RichKDError: the logits are not finite, a label is not a valid class, or the shapes do not match.

    Example:
        >>> logits_NC = torch.tensor([[4.0, 0.0]]).repeat(4000, 1)
        >>> labels_N = torch.tensor([0, 0, 0, 1]).repeat(1000)
        >>> round(fit_temperature(logits_NC, labels_N), 1)  # softmax(4/T) = 3/4
        3.6
        >>> fit_temperature(logits_NC[:8], torch.zeros(8, dtype=torch.int64)) > 0.9  # few images, all correct
        True
    """
    logits_NC, labels_N = checked(logits_NC, labels_N)
    (factor,) = fit_multipliers([logits_NC], labels_N)
    return 1 / factor if factor > 0 else 1.0


def check_bins(bins: int) -> None:
    """Check that there is at least one bin.

    Raises:
        ConfigError: bins < 1.

    Example:
        >>> check_bins(15)
    """
    if bins < 1:
        raise ConfigError("Argument 'bins' must be at least 1", got=repr(bins), fix="use 15.")


def bin_of(confidence_N: Tensor, bins: int) -> Tensor:
    """Index of the equal-width bin of [0, 1] that holds each confidence; 1.0 belongs to the last bin.

    Example:
        >>> bin_of(torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64), bins=2).tolist()
        [0, 1, 1]
    """
    inner_edges = torch.linspace(0, 1, bins + 1, dtype=torch.float64)[1:-1]
    return torch.bucketize(confidence_N, inner_edges, right=True)
