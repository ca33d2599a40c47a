"""How often a model is confidently correct or confidently wrong, and how well confidence ranks its errors.

The confidence of an image is the highest probability of its row, and the prediction is the class with this
probability (the lowest class index in case of ties). The confidence depends on the temperature. To compare
models, fit the temperature of each on the same held-out images, or compare at equal coverage, or use AURC
and AUGRC, which depend only on the ranking.

**Ties.** Softmax saturates, so many images can have exactly the same confidence. Metrics that depend on the
ranking are expected values over all orders of the tied images: if x images of a group of m tied images with
g errors are covered, x·g/m errors are counted. Therefore the result does not depend on the order in which
the images are stored. By the same rule the number of covered images q·N can be fractional.

Shape letters in addition to those of `richkd.core.types`: G groups of images with equal confidence, sorted
by descending confidence.
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
    """Fractions of images that are confidently correct and wrong; made by `measure_confident_rates`.

    The coverage is ``correct`` + ``wrong``.

    Attributes:
        correct: confidently correct images / all images, in [0, 1].
        wrong: confidently wrong images / all images, in [0, 1].
        threshold: the lowest confidence that counts as confident.
        n: number of images.
    """

    correct: float
    wrong: float
    threshold: float
    n: int


@dataclass(frozen=True)
class RiskCoverage(Figures):
    """A risk-coverage curve; made by `measure_risk_coverage`.

    Attributes:
        coverage: fraction of the images that are covered, the most confident first; ascending.
        risk: errors among the covered images / covered images.
        generalized_risk: errors among the covered images / all images.
        aurc: mean of ``risk`` over all N coverages k/N, not only over the points of the curve.
        augrc: mean of ``generalized_risk`` over all N coverages k/N.
    """

    coverage: tuple[float, ...]
    risk: tuple[float, ...]
    generalized_risk: tuple[float, ...]
    aurc: float
    augrc: float


class State(IntEnum):
    """Result of a model on one image: correct or wrong, certain or uncertain; a row or column of `Moves`.

    Example:
        >>> int(State.WRONG_CERTAIN)
        2
    """

    CORRECT_CERTAIN = 0
    CORRECT_UNCERTAIN = 1
    WRONG_CERTAIN = 2
    WRONG_UNCERTAIN = 3


@dataclass(frozen=True)
class Moves(Figures):
    """Contingency table of the `State` of each image under two models; made by `count_moves`.

    ``counts[s][t]`` images are in state s for the first model and in state t for the second.

    With a threshold the counts are whole numbers. With a coverage, an image that is tied at the border is
    certain with a probability between 0 and 1. Several joint tables fit the probabilities of the two models;
    this is the one with the largest diagonal, so a model compared with itself has a diagonal table.
    """

    counts: tuple[tuple[float, ...], ...]

    def to_dict(self) -> dict[str, Any]:
        """The names of the states and the table, as a dictionary that can be written as JSON."""
        return {"states": [state.name.lower() for state in State], "counts": [list(r) for r in self.counts]}


def confidence_and_correct(probs_NC: Tensor, labels_N: Tensor) -> tuple[Tensor, Tensor]:
    """Confidence max_k p_k (float64) of each image, and whether the prediction is correct (bool).

    Both results have shape (N) and are on the CPU.

    Raises:
        RichKDError: a row is not a distribution, a label is not a valid class, or the shapes do not match.

    Example:
        >>> probs_NC = torch.tensor([[0.75, 0.25], [0.5, 0.5]])
        >>> confidence_N, correct_N = confidence_and_correct(probs_NC, torch.tensor([0, 1]))
        >>> confidence_N.tolist(), correct_N.tolist()
        ([0.75, 0.5], [True, False])
    """
    probs_NC, labels_N = checked_probs(probs_NC, labels_N)
    confidence_N, guess_N = probs_NC.max(1)
    return confidence_N.cpu(), (guess_N == labels_N).cpu()


def measure_confident_rates(probs_NC: Tensor, labels_N: Tensor, threshold: float) -> ConfidentRates:
    """Confidently correct and confidently wrong rates at a confidence threshold τ.

    CC(τ) = mean 1[ŷ = y ∧ c ≥ τ] and CW(τ) = mean 1[ŷ ≠ y ∧ c ≥ τ]. Both change with the temperature even if
    the accuracy does not. Apply temperature scaling to each model first, or report the rates as unscaled.

    Raises:
        RichKDError: as `confidence_and_correct`, or the threshold is outside [0, 1].

    Example:
        >>> probs_NC = torch.tensor([[0.9, 0.1], [0.9, 0.1], [0.6, 0.4], [0.6, 0.4]])
        >>> rates = measure_confident_rates(probs_NC, torch.tensor([0, 1, 0, 0]), threshold=0.8)
        >>> rates.correct, rates.wrong
        (0.25, 0.25)
    """
    _check_share("threshold", threshold, zero=True)
    confidence_N, correct_N = confidence_and_correct(probs_NC, labels_N)
    certain_N = confidence_N >= threshold
    right, wrong = int((certain_N & correct_N).sum()), int((certain_N & ~correct_N).sum())
    return ConfidentRates(right / len(correct_N), wrong / len(correct_N), threshold, len(correct_N))


def confident_rates_at_coverage(probs_NC: Tensor, labels_N: Tensor, coverage: float) -> ConfidentRates:
    """Confidently correct and confidently wrong rates among the most confident images.

    The fraction ``coverage`` of the images counts as confident; CC + CW = coverage. At equal coverage, the
    rates of two models differ only by the accuracy among their most confident images, independent of the
    temperature. `COVERAGES` lists the common values.

    Raises:
        RichKDError: as `confidence_and_correct`, or the coverage is outside (0, 1].

    Example:
        >>> probs_NC = torch.tensor([[0.9, 0.1], [0.8, 0.2], [0.7, 0.3], [0.6, 0.4]])
        >>> rates = confident_rates_at_coverage(probs_NC, torch.tensor([0, 0, 1, 1]), coverage=0.75)
        >>> rates.correct, rates.wrong
        (0.5, 0.25)
    """
    _check_share("coverage", coverage, zero=False)
    ranking = ranked(probs_NC, labels_N)
    n, covered = ranking.n, coverage * ranking.n
    wrong = float(ranking.errors_among(covered))
    # Floating-point q·N can lie slightly below or above the intended whole number.
    last = int(np.searchsorted(ranking.ends_G1[1:], round(covered, 6)))
    return ConfidentRates((covered - wrong) / n, wrong / n, float(ranking.confidence_G[last]), n)


def aurc(probs_NC: Tensor, labels_N: Tensor) -> float:
    """Area under the risk-coverage curve, (1/N) Σ_k (1/k) Σ_{i≤k} e_(i), in [0, 1]; lower is better.

    e_(i) is the error (0 or 1) of the image at rank i, sorted by descending confidence. A random confidence
    gives the error rate. Source: Geifman et al. 2019, "Bias-reduced uncertainty estimation for deep neural
    classifiers".

    Raises:
        RichKDError: as `confidence_and_correct`.

    Example:
        >>> probs_NC = torch.tensor([[0.9, 0.1], [0.6, 0.4]])
        >>> aurc(probs_NC, torch.tensor([0, 1]))  # the error has the lower confidence: (0/1 + 1/2) / 2
        0.25
        >>> aurc(probs_NC, torch.tensor([1, 0]))  # the error has the higher confidence: (1/1 + 1/2) / 2
        0.75
    """
    return ranked(probs_NC, labels_N).aurc()


def augrc(probs_NC: Tensor, labels_N: Tensor) -> float:
    """Area under the generalized risk-coverage curve, (1/N) Σ_k (1/N) Σ_{i≤k} e_(i); lower is better.

    Let ε be the error rate and A the probability that an error has a lower confidence than a correct
    prediction (AUROC). Then AUGRC = (1 − A)·ε·(1 − ε) + ε²/2 + ε/(2N), in [0, (1 + 1/N)/2]. Source: Traub et
    al. 2024, "Overcoming common flaws in the evaluation of selective classification systems".

    Raises:
        RichKDError: as `confidence_and_correct`.

    Example:
        >>> probs_NC = torch.tensor([[0.9, 0.1], [0.6, 0.4]])
        >>> augrc(probs_NC, torch.tensor([0, 1]))  # the error has the lower confidence: (0 + 1) / 4
        0.25
        >>> augrc(probs_NC, torch.tensor([1, 0]))  # the error has the higher confidence: (1 + 1) / 4
        0.5
    """
    return ranked(probs_NC, labels_N).augrc()


def measure_risk_coverage(probs_NC: Tensor, labels_N: Tensor, points: int = 200) -> RiskCoverage:
    """The risk-coverage curve at ``points`` coverages k/N, evenly spaced from 1/N to 1.

    With fewer images than ``points``, the curve has one point per image.

    Raises:
        RichKDError: as `confidence_and_correct`, or points < 2.

    Example:
        >>> probs_NC = torch.tensor([[0.9, 0.1], [0.6, 0.4]])
        >>> curve = measure_risk_coverage(probs_NC, torch.tensor([0, 1]))
        >>> curve.coverage, curve.risk, curve.generalized_risk
        ((0.5, 1.0), (0.0, 0.5), (0.0, 0.5))
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


def count_moves(a_probs_NC: Tensor, b_probs_NC: Tensor, labels_N: Tensor, threshold: float) -> Moves:
    """Count how images change their `State` from model a to model b, given a confidence threshold.

    An image is certain if its confidence is at least ``threshold``.

    Raises:
        RichKDError: as `measure_confident_rates`, or the shapes of the two models differ.

    Example:
        >>> a_NC, b_NC = torch.tensor([[0.9, 0.1]]), torch.tensor([[0.4, 0.6]])
        >>> table = count_moves(a_NC, b_NC, torch.tensor([1]), threshold=0.8)
        >>> table.counts[State.WRONG_CERTAIN][State.CORRECT_UNCERTAIN]
        1.0
    """
    _check_share("threshold", threshold, zero=True)
    check_pair(a_probs_NC, b_probs_NC)
    models = [confidence_and_correct(probs_NC, labels_N) for probs_NC in (a_probs_NC, b_probs_NC)]
    return _moves(*[((confidence_N >= threshold).double(), correct_N) for confidence_N, correct_N in models])


def moves_at_coverage(a_probs_NC: Tensor, b_probs_NC: Tensor, labels_N: Tensor, coverage: float) -> Moves:
    """Count how images change their `State` from model a to model b, at a given coverage.

    An image is certain if it is among the fraction ``coverage`` of the model's most confident images.

    Raises:
        RichKDError: as `confident_rates_at_coverage`, or the shapes of the two models differ.

    Example:
        >>> a_NC = torch.tensor([[0.9, 0.1], [0.6, 0.4]])
        >>> table = moves_at_coverage(a_NC, a_NC.flip(0), torch.tensor([0, 0]), coverage=0.5)
        >>> table.counts[State.CORRECT_CERTAIN][State.CORRECT_UNCERTAIN]
        1.0
    """
    _check_share("coverage", coverage, zero=False)
    check_pair(a_probs_NC, b_probs_NC)
    models = [ranked(probs_NC, labels_N) for probs_NC in (a_probs_NC, b_probs_NC)]
    return _moves(*[(ranking.covered_share(coverage * ranking.n), ranking.correct_N) for ranking in models])


@dataclass(frozen=True)
class Ranking:
    """Images in groups of equal confidence, in descending order; made by `ranked`.

    Attributes:
        confidence_G: the confidence of each group.
        ends_G1: cumulative number of images at the end of each group, with a leading zero.
        errors_G1: cumulative number of errors at the end of each group, with a leading zero.
        group_N: the group of each image.
        correct_N: whether the prediction for each image is correct.
    """

    confidence_G: NDArray[np.float64]
    ends_G1: NDArray[np.float64]
    errors_G1: NDArray[np.float64]
    group_N: NDArray[np.int64]
    correct_N: Tensor

    @property
    def n(self) -> int:
        """Number of images."""
        return len(self.group_N)

    def errors_among(self, covered: Any) -> Any:
        """Expected number of errors among the ``covered`` most confident images (a number or an array)."""
        return np.interp(covered, self.ends_G1, self.errors_G1)

    def covered_share(self, covered: float) -> Tensor:
        """Probability (N) that an image is among the ``covered`` most confident, over all orders of ties."""
        share_G = np.clip((covered - self.ends_G1[:-1]) / np.diff(self.ends_G1), 0, 1)
        return torch.from_numpy(share_G[self.group_N])

    def aurc(self) -> float:
        """See `richkd.metrics.confidence.aurc`."""
        ranks = np.arange(1, self.n + 1)
        return float((self.errors_among(ranks) / ranks).mean())

    def augrc(self) -> float:
        """See `richkd.metrics.confidence.augrc`."""
        return float(self.errors_among(np.arange(1, self.n + 1)).mean() / self.n)


def ranked(probs_NC: Tensor, labels_N: Tensor) -> Ranking:
    """Group the images by confidence and sort the groups in descending order.

    Raises:
        RichKDError: as `confidence_and_correct`.

    Example:
        >>> probs_NC = torch.tensor([[0.5, 0.5], [0.75, 0.25], [0.75, 0.25]])
        >>> ranking = ranked(probs_NC, torch.tensor([0, 0, 1]))
        >>> ranking.confidence_G.tolist(), ranking.ends_G1.tolist(), ranking.errors_G1.tolist()
        ([0.75, 0.5], [0.0, 2.0, 3.0], [0.0, 1.0, 1.0])
    """
    confidence_N, correct_N = confidence_and_correct(probs_NC, labels_N)
    negated_G, group_N, size_G = np.unique(-confidence_N.numpy(), return_inverse=True, return_counts=True)
    errors_G = np.bincount(group_N, ~correct_N.numpy())
    ends_G1, errors_G1 = (np.concatenate([[0.0], np.cumsum(counts_G)]) for counts_G in (size_G, errors_G))
    return Ranking(-negated_G, ends_G1, errors_G1, group_N, correct_N)


def _moves(a: tuple[Tensor, Tensor], b: tuple[Tensor, Tensor]) -> Moves:
    """The table of two models; for each, the probability (N) of being certain, and its correctness (N)."""
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
