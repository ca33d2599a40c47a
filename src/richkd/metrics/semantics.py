"""Measure whether the probabilities of the wrong classes are meaningful.

All metrics use ``q_j = p_j / (1 − p_y)``, the distribution over the classes other than the label y. The
reference for class similarity is a hierarchy of superclasses defined by people. Similarities from the CLIP
model that taught the student are not used: agreement with them would only show that the student was taught.
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
from richkd.data.hierarchy import Hierarchy, refuse_ungrouped
from richkd.metrics.checks import Figures, checked_probs
from richkd.metrics.intervals import RESAMPLES, RESAMPLING_SEED, Interval, bootstrap_means

PERMUTATIONS = 999


@dataclass(frozen=True)
class Correlation(Figures):
    """Rank correlation of two class-by-class matrices; made by `mantel`.

    Attributes:
        rho: Spearman's ρ, in [−1, 1].
        p: one-sided p-value of the permutation test, in (0, 1].
        permutations: number of random permutations.
    """

    rho: float
    p: float
    permutations: int


@dataclass(frozen=True)
class Semantics(Figures):
    """Metrics of the wrong-class probabilities of one model; made by `measure_semantics`.

    The *related* classes of an image are the other classes of its superclass.

    Attributes:
        superclass_auroc: AUROC of p_j for separating related classes from all other wrong classes, per image;
            the chance level is 0.5, and it does not depend on the temperature. None if no image has both
            kinds of classes.
        superclass_mass: fraction of q on the related classes; depends on the temperature.
        chance_mass: ``superclass_mass`` of a uniform q.
        consistency: 1 − mean JSD(q ‖ mean q of the image's class) / ln 2, in [0, 1]; 1 if all images of a
            class have the same q.
        mistake_severity: mean distance of the wrong predictions: 1 within the superclass, 2 outside. None if
            all predictions are correct.
        distance: mean distance of all predictions, with 0 for correct ones. Unlike ``mistake_severity``, it
            does not improve when a model makes additional mild errors.
        correlation: rank correlation of the class means of q with "same superclass", with Mantel's test, over
            the classes that have images; None for fewer than three of them.
    """

    superclass_auroc: Interval | None
    superclass_mass: Interval | None
    chance_mass: float | None
    consistency: Interval
    mistake_severity: Interval | None
    distance: Interval
    correlation: Correlation | None


def measure_semantics(probs_NC: Tensor, labels_N: Tensor, hierarchy: Hierarchy) -> Semantics:
    """Compute all metrics of the wrong-class probabilities with respect to a hierarchy of superclasses.

    Args:
        probs_NC: predicted probabilities.
        labels_N: labels of the images.
        hierarchy: superclass of each class.

    Raises:
        RichKDError: a row is not a distribution, or a label is not a valid class.
        DataError: the hierarchy has a different number of classes, or groups no classes.

    Example:
        >>> hierarchy = Hierarchy(("animals", "vehicles"), (0, 0, 1, 1))  # cat, dog | car, bus
        >>> probs_NC = torch.tensor([[0.7, 0.2, 0.1, 0.0], [0.6, 0.3, 0.05, 0.05]])
        >>> result = measure_semantics(probs_NC, torch.tensor([0, 1]), hierarchy)
        >>> result.superclass_auroc.estimate, result.mistake_severity.estimate
        (1.0, 1.0)
    """
    probs_NC, labels_N = checked_probs(probs_NC, labels_N)
    probs_NC = probs_NC.double().cpu()
    labels_N = labels_N.cpu()
    same_CC = same_superclass(hierarchy, probs_NC.shape[1])
    wrong_NC = others(probs_NC, labels_N)
    related_NC = same_CC[labels_N]
    guess_N = probs_NC.argmax(dim=1)
    near_N = related_NC.gather(1, guess_N[:, None])[:, 0]
    distance_N = torch.where(guess_N == labels_N, 0.0, torch.where(near_N, 1.0, 2.0)).double()
    consistent_N = _consistency(wrong_NC, labels_N)
    has_N = related_NC.any(dim=1)
    chance_N = related_NC.sum(dim=1).double() / (probs_NC.shape[1] - 1)
    return Semantics(
        _mean(_auroc(probs_NC, labels_N, same_CC)),
        _mean((wrong_NC * related_NC).sum(dim=1)[has_N]),
        float(chance_N[has_N].mean()) if has_N.any() else None,
        bootstrap_means(consistent_N[:, None], seed=RESAMPLING_SEED, resamples=RESAMPLES)[0],
        _mean(distance_N[distance_N > 0]),
        bootstrap_means(distance_N[:, None], seed=RESAMPLING_SEED, resamples=RESAMPLES)[0],
        _mantel(wrong_NC, labels_N, same_CC),
    )


def _mantel(wrong_NC: Tensor, labels_N: Tensor, same_CC: Tensor) -> Correlation | None:
    """Correlation of mean q and superclasses over the classes with images; None for fewer than three."""
    seen_K = torch.bincount(labels_N).nonzero()[:, 0]
    if len(seen_K) < 3:
        return None
    means_KK = class_means(wrong_NC, labels_N)[seen_K][:, seen_K]
    return mantel(means_KK, same_CC[seen_K][:, seen_K].double(), seed=RESAMPLING_SEED)


def superclass_auroc(probs_NC: Tensor, labels_N: Tensor, hierarchy: Hierarchy) -> float | None:
    """``superclass_auroc`` of `Semantics` without its interval; None if no image has both kinds of classes.

    Raises:
        DataError: see `measure_semantics`.

    Example:
        >>> hierarchy = Hierarchy(("animals", "vehicles"), (0, 0, 1, 1))  # cat, dog | car, bus
        >>> superclass_auroc(torch.tensor([[0.7, 0.1, 0.15, 0.05]]), torch.tensor([0]), hierarchy)
        0.5
    """
    auroc_M = _auroc(probs_NC.double(), labels_N, same_superclass(hierarchy, probs_NC.shape[1]))
    return float(auroc_M.mean()) if len(auroc_M) else None


def others(probs_NC: Tensor, labels_N: Tensor) -> Tensor:
    """Distribution over the wrong classes, ``q_j = p_j / (1 − p_y)`` with q_y = 0; shape (N, C).

    If p_y = 1, q is uniform over the wrong classes.

    Example:
        >>> others(torch.tensor([[0.5, 0.25, 0.25], [1.0, 0.0, 0.0]]), torch.tensor([0, 0])).tolist()
        [[0.0, 0.5, 0.5], [0.0, 0.5, 0.5]]
    """
    zeroed_NC = probs_NC.scatter(1, labels_N[:, None], 0.0)
    left_N1 = zeroed_NC.sum(dim=1, keepdim=True)
    uniform_NC = torch.ones_like(zeroed_NC).scatter(1, labels_N[:, None], 0.0) / (probs_NC.shape[1] - 1)
    return torch.where(left_N1 > 0, zeroed_NC / torch.where(left_N1 > 0, left_N1, 1.0), uniform_NC)


def consistency(probs_NC: Tensor, labels_N: Tensor) -> float:
    """Consistency of the wrong-class distributions: ``1 − mean JSD(q(x) ‖ mean q of x's class) / ln 2``.

    The range is [0, 1]; 1 means that all images of a class have the same q.

    Example:
        >>> consistency(torch.tensor([[0.5, 0.3, 0.2], [0.0, 0.6, 0.4]]), torch.tensor([0, 0])) > 0.999
        True
    """
    return float(_consistency(others(probs_NC.double(), labels_N), labels_N).mean())


def _consistency(wrong_NC: Tensor, labels_N: Tensor) -> Tensor:
    """``1 − JSD(q ‖ mean q of the class) / ln 2`` of each image (N)."""
    means_CC = class_means(wrong_NC, labels_N)
    middle_NC = (wrong_NC + means_CC[labels_N]) / 2
    jsd_N = _entropy(middle_NC) - (_entropy(wrong_NC) + _entropy(means_CC)[labels_N]) / 2
    return 1 - jsd_N / math.log(2)


def class_means(wrong_NC: Tensor, labels_N: Tensor) -> Tensor:
    """Mean q of the images of each class, one row per class: (C, C); zero for a class without images.

    Example:
        >>> q_NC = torch.tensor([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
        >>> class_means(q_NC, torch.tensor([0, 0])).tolist()
        [[0.0, 0.5, 0.5], [0.0, 0.0, 0.0], [0.0, 0.0, 0.0]]
    """
    classes = wrong_NC.shape[1]
    sums_CC = torch.zeros(classes, classes, dtype=wrong_NC.dtype).index_add_(0, labels_N, wrong_NC)
    return sums_CC / torch.bincount(labels_N, minlength=classes).clamp_min(1)[:, None]


def mantel(
    means_CC: Tensor, similarity_CC: Tensor, *, seed: int, permutations: int = PERMUTATIONS
) -> Correlation:
    """Spearman's ρ between the class means of q and a class similarity, with Mantel's permutation test.

    Both matrices are symmetrized, ``(A + Aᵀ)/2``, and the diagonal is ignored. The classes of one matrix are
    permuted at random; the p-value is the fraction of permutations, including the true order, with a ρ at
    least as large.

    Args:
        means_CC: mean q of each class (`class_means`).
        similarity_CC: similarity of each pair of classes.
        seed: seed of the permutations.
        permutations: number of random permutations.

    Raises:
        DataError: the shapes of the matrices differ, or there are fewer than three classes.

    Example:
        >>> distance_CC = (torch.arange(6.0)[:, None] - torch.arange(6.0)).abs()
        >>> result = mantel(5 - distance_CC, 25 - distance_CC.square(), seed=0)  # the same ranks
        >>> round(result.rho, 6), result.p < 0.05
        (1.0, True)
    """
    if means_CC.shape != similarity_CC.shape or len(means_CC) < 3:
        raise DataError(
            "Mantel's test needs two matrices of the same shape with at least three classes",
            got=f"shapes {tuple(means_CC.shape)} and {tuple(similarity_CC.shape)}",
            fix="pass one row and one column per class.",
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
    """Boolean matrix (C, C): whether two different classes have the same superclass; False on the diagonal.

    Args:
        hierarchy: superclass of each class.
        classes: number of classes C of the model.

    Raises:
        DataError: the hierarchy has a different number of classes, or groups no classes.

    Example:
        >>> same_superclass(Hierarchy(("a", "b"), (0, 0, 1)), classes=3).int().tolist()
        [[0, 1, 0], [1, 0, 0], [0, 0, 0]]
    """
    if len(hierarchy.superclass_of_C) != classes:
        raise DataError(
            "A hierarchy must have the classes of the model",
            got=f"{len(hierarchy.superclass_of_C)} classes in the hierarchy, {classes} in the model",
            fix="write a hierarchy file for the classes of the model.",
        )
    refuse_ungrouped(hierarchy)
    superclass_C = torch.tensor(hierarchy.superclass_of_C)
    return (superclass_C[:, None] == superclass_C) & ~torch.eye(classes, dtype=torch.bool)


def _auroc(probs_NC: Tensor, labels_N: Tensor, same_CC: Tensor) -> Tensor:
    """AUROC of related against unrelated wrong classes for each image that has both; ties count half."""
    result = []
    classes_C = torch.arange(len(same_CC))
    for label in torch.unique(labels_N).tolist():
        related_C, unrelated_C = same_CC[label], ~same_CC[label] & (classes_C != label)
        if related_C.any() and unrelated_C.any():
            of_class_KC = probs_NC[labels_N == label]
            near_KP1, far_K1S = of_class_KC[:, related_C][:, :, None], of_class_KC[:, unrelated_C][:, None]
            wins = (near_KP1 > far_K1S).double() + 0.5 * (near_KP1 == far_K1S).double()
            result.append(wins.mean(dim=(1, 2)))
    return torch.cat(result) if result else probs_NC.new_zeros(0)


def _mean(values_M: Tensor) -> Interval | None:
    """The mean over a subset of the images with its interval; None if the subset is empty."""
    if not len(values_M):
        return None
    return bootstrap_means(values_M[:, None], seed=RESAMPLING_SEED, resamples=RESAMPLES)[0]


def _entropy(probs_NC: Tensor) -> Tensor:
    entropy_N: Tensor = -torch.special.xlogy(probs_NC, probs_NC).sum(dim=1)
    return entropy_N


def _centered(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Ranks minus their mean; tied values share their mean rank."""
    _, group, size = np.unique(values, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(size) - (size - 1) / 2)[group]
    centered: NDArray[np.float64] = ranks - ranks.mean()
    return centered
