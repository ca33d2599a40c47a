"""How far a model's confidence can be taken at its word, bin by bin."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from richkd.core.errors import ConfigError
from richkd.metrics.checks import Figures, checked, checked_probs
from richkd.metrics.confidence import confidence_and_correct, ranked

TEMPERATURE_RANGE = (0.01, 100.0)


@dataclass(frozen=True)
class Reliability(Figures):
    """A reliability diagram: for each equal-width bin its images, their accuracy and mean confidence.

    ``edges`` has one number more than there are bins; an empty bin has neither accuracy nor confidence.
    ``ece`` is `richkd.metrics.calibration.ece`, ``mce`` the largest |accuracy − confidence| of a bin.
    """

    edges: tuple[float, ...]
    count: tuple[int, ...]
    accuracy: tuple[float | None, ...]
    confidence: tuple[float | None, ...]
    ece: float
    mce: float


def reliability(probs_NC: Tensor, labels_N: Tensor, bins: int = 15) -> Reliability:
    """The numbers of a reliability diagram over equal-width bins, with ECE and MCE.

    MCE = max_b |acc(b) − conf(b)| over bins that hold images; a bin of few images makes it large by chance.
    Source: Naeini et al. 2015, "Obtaining well calibrated probabilities using Bayesian binning".

    Raises:
        RichKDError: as `confidence_and_correct`, and where bins < 1.
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
    """Expected calibration error over equal-mass bins: images by confidence, N/bins in each; in [0, 1].

    (1/N) Σ_b |Σ_{i∈b} (1[ŷ = y] − c)|. An image on the border of two bins is divided between them, and tied
    images fill bins in equal parts. Source: Nguyen and O'Connor 2015, "Posterior calibration and exploratory
    analysis for natural language processing models".

    Raises:
        RichKDError: as `confidence_and_correct`, and where bins < 1.
    """
    check_bins(bins)
    ranking = ranked(probs_NC, labels_N)
    sizes_G, errors_G = np.diff(ranking.ends_G1), np.diff(ranking.errors_G1)
    gaps_G1 = np.concatenate([[0.0], np.cumsum(sizes_G * (1 - ranking.confidence_G) - errors_G)])
    borders = np.linspace(0, ranking.n, bins + 1)
    return float(np.abs(np.diff(np.interp(borders, ranking.ends_G1, gaps_G1))).sum() / ranking.n)


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
    """The T in [0.01, 100] that minimizes NLL(z/T): fit it on held-out images, never on the test set.

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


def check_bins(bins: int) -> None:
    """Refuse fewer than one bin of confidence."""
    if bins < 1:
        raise ConfigError("Argument 'bins' must be at least 1", got=repr(bins), fix="use 15.")


def bin_of(confidence_N: Tensor, bins: int) -> Tensor:
    """Position of each confidence among ``bins`` equal-width bins of [0, 1]; exactly 1.0 is in the last."""
    inner_edges = torch.linspace(0, 1, bins + 1, dtype=torch.float64)[1:-1]
    return torch.bucketize(confidence_N, inner_edges, right=True)
