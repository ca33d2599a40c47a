"""How often a model is confidently right or confidently wrong, and how well its confidence orders its errors.

The confidence of an image is the highest probability of its row, and the guess is the class that has it (of
equal ones the lowest). Confidences depend on temperature, so compare models either after each was scaled on
the same held-out images, or at matched coverage, or by AURC and AUGRC, which see the order alone.

**Ties.** Softmax saturates, so many images may have the very same confidence. Whatever depends on an order
takes its expected value over all orders of the tied images: when a group of m images with g errors is
entered by x of its places, x·g/m errors are counted. No image is preferred, and nothing depends on the order
in which images are stored. The number of covered images q·N need not be whole, by the same rule.

Shape letters beside those of `richkd.core.types`: G groups of images of equal confidence, the most
confident first.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from richkd.core.errors import ConfigError
from richkd.metrics.checks import Figures, check_pair, checked_probs

COVERAGES = (0.5, 0.8, 0.9)


@dataclass(frozen=True)
class ConfidentRates(Figures):
    """Shares of all ``n`` images that are confidently right and confidently wrong, each in [0, 1].

    ``threshold`` is the lowest confidence that counts as certain; ``correct`` + ``wrong`` is the coverage.
    """

    correct: float
    wrong: float
    threshold: float
    n: int


@dataclass(frozen=True)
class RiskCoverage(Figures):
    """Risk among the most confident images, at most as many points as were asked for, coverage rising.

    ``risk`` is errors / covered images, ``generalized_risk`` errors / all images (errors that are made and
    not withheld); ``aurc`` and ``augrc`` are their means over all N coverages, whatever the points.
    """

    coverage: tuple[float, ...]
    risk: tuple[float, ...]
    generalized_risk: tuple[float, ...]
    aurc: float
    augrc: float


class State(IntEnum):
    """What a model does on an image; the row or column of `Moves`."""

    CORRECT_CERTAIN = 0
    CORRECT_UNCERTAIN = 1
    WRONG_CERTAIN = 2
    WRONG_UNCERTAIN = 3


@dataclass(frozen=True)
class Moves(Figures):
    """``counts[s][t]`` images are in `State` s with the first model and in `State` t with the second.

    Counts at a threshold are whole. At a coverage an image that is tied at its border is certain in part; of
    the tables that fit both models' parts this one moves least, and a model moves nowhere from itself.
    """

    counts: tuple[tuple[float, ...], ...]

    def to_dict(self) -> dict[str, Any]:
        """Names of the states and the table, ready for JSON."""
        return {"states": [state.name.lower() for state in State], "counts": [list(r) for r in self.counts]}


def confidence_and_correct(probs_NC: Tensor, labels_N: Tensor) -> tuple[Tensor, Tensor]:
    """Confidence max_k p_k in float64, and whether arg-max is the label, as booleans; both (N,) on the CPU.

    Raises:
        RichKDError: where rows are not distributions, labels are outside the classes, or shapes disagree.
    """
    probs_NC, labels_N = checked_probs(probs_NC, labels_N)
    confidence_N, guess_N = probs_NC.max(1)
    return confidence_N.cpu(), (guess_N == labels_N).cpu()


def confident_rates(probs_NC: Tensor, labels_N: Tensor, threshold: float) -> ConfidentRates:
    """CC(τ) = mean 1[ŷ = y ∧ c ≥ τ] and CW(τ) = mean 1[ŷ ≠ y ∧ c ≥ τ].

    These move with temperature at fixed accuracy: scale each model first, or name the figure raw.

    Raises:
        RichKDError: as `confidence_and_correct`, and where the threshold is outside [0, 1].
    """
    _check_share("threshold", threshold, zero=True)
    confidence_N, correct_N = confidence_and_correct(probs_NC, labels_N)
    certain_N = confidence_N >= threshold
    right, wrong = int((certain_N & correct_N).sum()), int((certain_N & ~correct_N).sum())
    return ConfidentRates(right / len(correct_N), wrong / len(correct_N), threshold, len(correct_N))


def confident_rates_at_coverage(probs_NC: Tensor, labels_N: Tensor, coverage: float) -> ConfidentRates:
    """CC and CW of the share ``coverage`` in (0, 1] of most confident images; they add up to ``coverage``.

    Models at the same coverage differ by accuracy among their most confident images, whatever their
    temperature. `COVERAGES` are the customary ones.

    Raises:
        RichKDError: as `confidence_and_correct`, and where the coverage is outside (0, 1].
    """
    _check_share("coverage", coverage, zero=False)
    ranking = ranked(probs_NC, labels_N)
    n, covered = ranking.n, coverage * ranking.n
    wrong = float(ranking.errors_among(covered))
    # q·N is rounded to either side of the whole number that is meant.
    last = int(np.searchsorted(ranking.ends_G1[1:], round(covered, 6)))
    return ConfidentRates((covered - wrong) / n, wrong / n, float(ranking.confidence_G[last]), n)


def aurc(probs_NC: Tensor, labels_N: Tensor) -> float:
    """Area under the risk-coverage curve, (1/N) Σ_k (1/k) Σ_{i≤k} e_(i), in [0, 1]; lower is better.

    e_(i) is the error (0 or 1) at rank i of falling confidence. Random confidence gives the error rate.
    Source: Geifman et al. 2019, "Bias-reduced uncertainty estimation for deep neural classifiers".

    Raises:
        RichKDError: as `confidence_and_correct`.
    """
    return ranked(probs_NC, labels_N).aurc()


def augrc(probs_NC: Tensor, labels_N: Tensor) -> float:
    """Area under the generalized risk-coverage curve, (1/N) Σ_k (1/N) Σ_{i≤k} e_(i); lower is better.

    With error rate ε and the probability A that an error is less confident than a right answer (AUROC) it
    is (1 − A)·ε·(1 − ε) + ε²/2 + ε/(2N), so within [0, (1 + 1/N)/2]. Source: Traub et al. 2024, "Overcoming
    common flaws in the evaluation of selective classification systems".

    Raises:
        RichKDError: as `confidence_and_correct`.
    """
    return ranked(probs_NC, labels_N).augrc()


def risk_coverage(probs_NC: Tensor, labels_N: Tensor, points: int = 200) -> RiskCoverage:
    """The risk-coverage curve at ``points`` coverages k/N, evenly spaced from 1/N to 1 (at all N if fewer).

    Raises:
        RichKDError: as `confidence_and_correct`, and where points < 2.
    """
    if points < 2:
        raise ConfigError("Argument 'points' must be at least 2", got=repr(points), fix="use 200.")
    ranking = ranked(probs_NC, labels_N)
    ranks = np.unique(np.linspace(1, ranking.n, min(points, ranking.n)).round())
    errors = ranking.errors_among(ranks)
    return RiskCoverage(
        coverage=tuple((ranks / ranking.n).tolist()),
        risk=tuple((errors / ranks).tolist()),
        generalized_risk=tuple((errors / ranking.n).tolist()),
        aurc=ranking.aurc(),
        augrc=ranking.augrc(),
    )


def moves(a_probs_NC: Tensor, b_probs_NC: Tensor, labels_N: Tensor, threshold: float) -> Moves:
    """Table of moves from model a to model b, certain being a confidence of at least ``threshold``.

    Raises:
        RichKDError: as `confident_rates`, and where the two models' shapes differ.
    """
    _check_share("threshold", threshold, zero=True)
    check_pair(a_probs_NC, b_probs_NC)
    models = [confidence_and_correct(probs_NC, labels_N) for probs_NC in (a_probs_NC, b_probs_NC)]
    return _moves(*[((confidence_N >= threshold).double(), correct_N) for confidence_N, correct_N in models])


def moves_at_coverage(a_probs_NC: Tensor, b_probs_NC: Tensor, labels_N: Tensor, coverage: float) -> Moves:
    """Table of moves from a to b, certain being the share ``coverage`` of each model's most confident images.

    Raises:
        RichKDError: as `confident_rates_at_coverage`, and where the two models' shapes differ.
    """
    _check_share("coverage", coverage, zero=False)
    check_pair(a_probs_NC, b_probs_NC)
    models = [ranked(probs_NC, labels_N) for probs_NC in (a_probs_NC, b_probs_NC)]
    return _moves(*[(ranking.covered_share(coverage * ranking.n), ranking.correct_N) for ranking in models])


@dataclass(frozen=True)
class Ranking:
    """Images in groups of equal confidence, most confident first; made by `ranked`.

    ``ends_G1`` and ``errors_G1`` start at zero and count the images and the errors down to the end of each
    group; ``group_N`` is each image's group.
    """

    confidence_G: NDArray[np.float64]
    ends_G1: NDArray[np.float64]
    errors_G1: NDArray[np.float64]
    group_N: NDArray[np.int64]
    correct_N: Tensor

    @property
    def n(self) -> int:
        return len(self.group_N)

    def errors_among(self, covered: Any) -> Any:
        """Expected errors among as many most confident images."""
        return np.interp(covered, self.ends_G1, self.errors_G1)

    def covered_share(self, covered: float) -> Tensor:
        """Probability that an image is among as many most confident ones, over the orders of tied images."""
        share_G = np.clip((covered - self.ends_G1[:-1]) / np.diff(self.ends_G1), 0, 1)
        return torch.from_numpy(share_G[self.group_N])

    def aurc(self) -> float:
        ranks = np.arange(1, self.n + 1)
        return float((self.errors_among(ranks) / ranks).mean())

    def augrc(self) -> float:
        return float(self.errors_among(np.arange(1, self.n + 1)).mean() / self.n)


def ranked(probs_NC: Tensor, labels_N: Tensor) -> Ranking:
    """A model's images by falling confidence."""
    confidence_N, correct_N = confidence_and_correct(probs_NC, labels_N)
    falling_G, group_N, size_G = np.unique(-confidence_N.numpy(), return_inverse=True, return_counts=True)
    errors_G = np.bincount(group_N, ~correct_N.numpy())
    ends_G1, errors_G1 = (np.concatenate([[0.0], np.cumsum(counts_G)]) for counts_G in (size_G, errors_G))
    return Ranking(-falling_G, ends_G1, errors_G1, group_N, correct_N)


def _moves(a: tuple[Tensor, Tensor], b: tuple[Tensor, Tensor]) -> Moves:
    """Table of two models, given each one's probability of being certain of an image, and its correctness."""
    (a_certain_N, a_correct_N), (b_certain_N, b_correct_N) = a, b
    both_N = torch.minimum(a_certain_N, b_certain_N)
    neither_N = 1 - torch.maximum(a_certain_N, b_certain_N)
    parts_N = [both_N, a_certain_N - both_N, b_certain_N - both_N, neither_N]
    counts = torch.zeros(16, dtype=torch.float64)
    for part, weight_N in enumerate(parts_N):
        # The states are numbered as 2·wrong + uncertain.
        cell_N = 8 * ~a_correct_N + 4 * (part // 2) + 2 * ~b_correct_N + part % 2
        counts += torch.bincount(cell_N, weight_N, minlength=16)
    return Moves(tuple(tuple(row) for row in counts.reshape(4, 4).tolist()))


def _check_share(name: str, share: float, *, zero: bool) -> None:
    if not (0 < share <= 1 or (zero and share == 0)):
        raise ConfigError(
            f"Argument '{name}' must be in {'[' if zero else '('}0, 1]", got=repr(share), fix="use 0.8."
        )
