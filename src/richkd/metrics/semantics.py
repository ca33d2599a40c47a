"""Whether the probabilities that a model gives to wrong classes mean something.

Everything is about ``q_j = p_j / (1 − p_y)``, the distribution over the classes that an image is not of. A
similarity that comes from the CLIP which taught a student would say only that it was taught; so the headline
figures go by superclasses that people have named.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from richkd.core.errors import DataError
from richkd.core.seeds import mix_seed
from richkd.data.hierarchy import Hierarchy
from richkd.metrics.checks import Figures, checked_probs
from richkd.metrics.intervals import Interval, bootstrap_means

PERMUTATIONS = 999
SEED, RESAMPLES = 0, 1000


@dataclass(frozen=True)
class Correlation(Figures):
    """Spearman's ρ of two class-by-class matrices, and how often permuted classes reach it by chance."""

    rho: float
    p: float
    permutations: int


@dataclass(frozen=True)
class Semantics(Figures):
    """Figures of wrong classes over all images; chance is what probabilities without meaning would give.

    Attributes:
        superclass_auroc: how well p_j tells classes of the image's superclass from others; chance 0.5, and
            the same at every temperature. None where no image's superclass has another class.
        superclass_mass: share of q on them; depends on temperature.
        chance_mass: that of a uniform q.
        consistency: 1 − mean JSD of q from the mean q of its class, over ln 2: 1 where all images of a
            class are mistaken alike.
        mistake_severity: mean distance of wrong answers, 1 within the superclass and 2 beyond; None where
            nothing is wrong.
        distance: mean distance of all answers, right ones at 0, which a model cannot lower by being wrong
            more often in a mild way.
        correlation: of the mean q of classes with "of one superclass", by Mantel's test; None for two
            classes.
    """

    superclass_auroc: Interval | None
    superclass_mass: Interval | None
    chance_mass: float | None
    consistency: Interval
    mistake_severity: Interval | None
    distance: Interval
    correlation: Correlation | None


def semantics(probs_NC: Tensor, labels_N: Tensor, hierarchy: Hierarchy) -> Semantics:
    """All figures that go by superclasses.

    Raises:
        RichKDError: rows that are no distributions, or labels outside of the classes.
        DataError: another number of classes than the hierarchy's; no superclass of several classes.
    """
    probs_NC, labels_N = checked_probs(probs_NC, labels_N)
    probs_NC = probs_NC.double().cpu()
    labels_N = labels_N.cpu()
    same_CC = same_superclass(hierarchy, probs_NC.shape[1])
    wrong_NC = others(probs_NC, labels_N)
    relatives_NC = same_CC[labels_N]
    guess_N = probs_NC.argmax(dim=1)
    near_N = relatives_NC.gather(1, guess_N[:, None])[:, 0]
    distance_N = torch.where(guess_N == labels_N, 0.0, torch.where(near_N, 1.0, 2.0)).double()
    has_N = relatives_NC.any(dim=1)
    chance_N = relatives_NC.sum(dim=1).double() / (probs_NC.shape[1] - 1)
    return Semantics(
        _mean(_auroc(probs_NC, labels_N, same_CC)),
        _mean((wrong_NC * relatives_NC).sum(dim=1)[has_N]),
        float(chance_N[has_N].mean()) if has_N.any() else None,
        bootstrap_means(_alike(wrong_NC, labels_N)[:, None], seed=SEED, resamples=RESAMPLES)[0],
        _mean(distance_N[distance_N > 0]),
        bootstrap_means(distance_N[:, None], seed=SEED, resamples=RESAMPLES)[0],
        mantel(class_means(wrong_NC, labels_N), same_CC.double(), seed=SEED) if len(same_CC) > 2 else None,
    )


def others(probs_NC: Tensor, labels_N: Tensor) -> Tensor:
    """``q_j = p_j / (1 − p_y)`` with q_y = 0; uniform where nothing is left for the other classes."""
    zeroed_NC = probs_NC.scatter(1, labels_N[:, None], 0.0)
    left_N1 = zeroed_NC.sum(dim=1, keepdim=True)
    uniform_NC = torch.ones_like(zeroed_NC).scatter(1, labels_N[:, None], 0.0) / (probs_NC.shape[1] - 1)
    return torch.where(left_N1 > 0, zeroed_NC / left_N1.clamp_min(1e-300), uniform_NC)


def consistency(probs_NC: Tensor, labels_N: Tensor) -> float:
    """``1 − mean JSD(q(x) ‖ mean q of x's class) / ln 2``, in [0, 1]."""
    return float(_alike(others(probs_NC.double(), labels_N), labels_N).mean())


def _alike(wrong_NC: Tensor, labels_N: Tensor) -> Tensor:
    """``1 − JSD(q ‖ mean q of the class) / ln 2`` for each image (N)."""
    means_CC = class_means(wrong_NC, labels_N)
    middle_NC = (wrong_NC + means_CC[labels_N]) / 2
    jsd_N = _entropy(middle_NC) - (_entropy(wrong_NC) + _entropy(means_CC)[labels_N]) / 2
    return 1 - jsd_N / math.log(2)


def class_means(wrong_NC: Tensor, labels_N: Tensor) -> Tensor:
    """The mean q (C, C) of the images of each class; zero for a class without images."""
    classes = wrong_NC.shape[1]
    sums_CC = torch.zeros(classes, classes, dtype=wrong_NC.dtype).index_add_(0, labels_N, wrong_NC)
    return sums_CC / torch.bincount(labels_N, minlength=classes).clamp_min(1)[:, None]


def mantel(
    means_CC: Tensor, similarity_CC: Tensor, *, seed: int, permutations: int = PERMUTATIONS
) -> Correlation:
    """Spearman's ρ between mean q and a similarity of classes, off the diagonal, with Mantel's test.

    Both matrices are made symmetric, ``(A + Aᵀ)/2``. The p-value is the share of permutations of the classes
    of one of them, the true order included, whose ρ is at least as large. A permutation is a function of the
    seed.

    Raises:
        DataError: matrices of two shapes, or fewer than three classes.
    """
    if means_CC.shape != similarity_CC.shape or len(means_CC) < 3:
        raise DataError(
            "Mantel's test compares two matrices of at least three classes",
            got=f"shapes {tuple(means_CC.shape)} and {tuple(similarity_CC.shape)}",
            fix="give one row and one column for each class.",
        )
    a_CC, b_CC = ((x + x.T).double().numpy() / 2 for x in (means_CC, similarity_CC))
    upper = np.triu_indices(len(a_CC), 1)
    ranks_a, ranks_b = np.zeros_like(a_CC), _centered(b_CC[upper])
    ranks_a[upper] = _centered(a_CC[upper])
    ranks_a += ranks_a.T
    random = np.random.default_rng(mix_seed(seed, "mantel"))
    norm = np.linalg.norm(ranks_a[upper]) * np.linalg.norm(ranks_b)
    rho = float(ranks_a[upper] @ ranks_b / norm) if norm else 0.0
    reached = 1
    for _ in range(permutations):
        order = random.permutation(len(a_CC))
        reached += bool(ranks_a[np.ix_(order, order)][upper] @ ranks_b >= rho * norm - 1e-9)
    return Correlation(rho, reached / (permutations + 1), permutations)


def same_superclass(hierarchy: Hierarchy, classes: int) -> Tensor:
    """Whether two classes (C, C) are different ones of one superclass.

    Raises:
        DataError: another number of classes, or no superclass of several classes.
    """
    if len(hierarchy.superclass_of_C) != classes:
        raise DataError(
            "A hierarchy must have the model's classes",
            got=f"{len(hierarchy.superclass_of_C)} in the hierarchy, {classes} of the model",
            fix="write one for these classes.",
        )
    above_C = torch.tensor(hierarchy.superclass_of_C)
    same_CC = (above_C[:, None] == above_C) & ~torch.eye(classes, dtype=torch.bool)
    if not same_CC.any() or bool((same_CC.sum(dim=1) == classes - 1).all()):
        raise DataError(
            "A hierarchy must have several superclasses, one of them of several classes",
            got=", ".join(hierarchy.superclasses[:5]),
            fix="put classes that are alike together, and others apart.",
        )
    return same_CC


def _auroc(probs_NC: Tensor, labels_N: Tensor, same_CC: Tensor) -> Tensor:
    """For each image that has relatives, how often one has more than a stranger; ties count half."""
    result = []
    everyone_C = torch.arange(len(same_CC))
    for label in torch.unique(labels_N).tolist():
        relatives, strangers = same_CC[label], ~same_CC[label] & (everyone_C != label)
        if relatives.any() and strangers.any():
            of_class_KC = probs_NC[labels_N == label]
            near_KP1, far_K1S = of_class_KC[:, relatives][:, :, None], of_class_KC[:, strangers][:, None]
            wins = (near_KP1 > far_K1S).double() + 0.5 * (near_KP1 == far_K1S).double()
            result.append(wins.mean(dim=(1, 2)))
    return torch.cat(result) if result else probs_NC.new_zeros(0)


def _mean(values_M: Tensor) -> Interval | None:
    """The mean over some of the images with its interval; None where there are none of them."""
    if not len(values_M):
        return None
    return bootstrap_means(values_M[:, None], seed=SEED, resamples=RESAMPLES)[0]


def _entropy(probs_NC: Tensor) -> Tensor:
    entropy_N: Tensor = -torch.special.xlogy(probs_NC, probs_NC).sum(dim=1)
    return entropy_N


def _centered(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Ranks, ties sharing their mean, less their mean."""
    _, place, size = np.unique(values, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(size) - (size - 1) / 2)[place]
    centered: NDArray[np.float64] = ranks - ranks.mean()
    return centered
