"""How far a model's confidence can be taken at its word, bin by bin."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from richkd.evaluate.confidence import Figures, confidence_and_correct, ranked
from richkd.evaluate.metrics import bin_of, check_bins


@dataclass(frozen=True)
class Reliability(Figures):
    """A reliability diagram: for each equal-width bin its images, their accuracy and mean confidence.

    ``edges`` has one number more than there are bins; an empty bin has neither accuracy nor confidence.
    ``ece`` is `richkd.evaluate.metrics.ece`, ``mce`` the largest |accuracy − confidence| of a bin.
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
