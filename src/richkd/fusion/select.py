"""Select the mixing of the teachers by cross-fitting on held-out images.

Each candidate is scored on images that it was not fitted on, so a candidate with more parameters gets no
advantage from fitting the held-out images themselves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from richkd.data.split import folds_of
from richkd.fusion.fit import Shares, fit_log_pool, nll_of
from richkd.fusion.mixing import LogPool, Mixing
from richkd.fusion.mixings import Fit, candidates
from richkd.fusion.shares import equal_shares

FIT_FOLDS = 5
# With fewer images, the scores of the candidates are too uncertain to choose between them.
LEAST_IMAGES = 50
# More images than this hardly change the fitted weights.
FIT_IMAGES = 2500


@dataclass(frozen=True)
class Candidate:
    """The cross-fitted score of one way of mixing.

    Attributes:
        name: name of the way of mixing.
        nll: mean negative log-likelihood in nats; the fused logits of each image come from the fit that
            excludes the image's fold.
        error: standard error of ``nll``, see `standard_error`.
    """

    name: str
    nll: float
    error: float


@dataclass(frozen=True)
class Choice:
    """The selected mixing and the scores of all candidates.

    Attributes:
        name: name of the selected candidate.
        mixing: the selected mixing, fitted on all held-out images.
        logits_NC: fused logits of all held-out images, each from the fit that excludes the image's fold.
        candidates: the scores of all candidates, in the order in which they are preferred.
        threshold: the smallest NLL plus its standard error; the first candidate below it is selected.
    """

    name: str
    mixing: Mixing
    logits_NC: Tensor
    candidates: tuple[Candidate, ...]
    threshold: float


def choose(logs: Sequence[Tensor], labels_N: Tensor, names: Sequence[str], shares: Shares = None) -> Choice:
    """Select the simplest mixing whose cross-fitted NLL is within one standard error of the smallest NLL.

    The threshold is the same for all candidates: the smallest NLL plus the standard error of this NLL
    (Breiman et al. 1984, "Classification and regression trees", section 3.4.3).

    The candidates are those of `richkd.fusion.mixings.candidates`, from simple to complex, and, after the
    first of them, the best teacher alone at its best temperature. The first one, the logarithmic pool, is
    preferred to a single teacher: with few images, its prior keeps it close to the fusion that is not
    fitted, while leaving out a teacher is an estimate from these few images.

    With fewer than `LEAST_IMAGES` images, the logarithmic pool is the only candidate.

    Cross-fitting uses at most `FIT_IMAGES` images; the selected candidate is then fitted on all images.

    Args:
        logs: each teacher's log-probabilities (N, C) of images that no teacher was trained on.
        labels_N: the labels of these images.
        names: the teachers' names.
        shares: share of each teacher in a fusion that is not fitted, the center of the fits; equal if None.

    Example:
        >>> labels_N, generator = torch.arange(400) % 2, torch.Generator().manual_seed(0)
        >>> truth_NC = torch.nn.functional.one_hot(labels_N, 2).double()
        >>> logs = [(truth_NC + torch.randn(400, 2, generator=generator)).log_softmax(1) for _ in range(2)]
        >>> choice = choose(logs, labels_N, ["teacher", "CLIP"])
        >>> choice.name, choice.candidates[0].nll < choice.candidates[1].nll
        ('log-pool', True)
    """
    exact = [log_NC.double() for log_NC in logs]
    ways = _ways(exact, labels_N, names)
    fused = {name: cross_fitted(fit, exact, labels_N, shares) for name, fit in ways.items()}
    losses = {name: nll_of(LogPool((1.0,)), [fused_NC], labels_N) for name, fused_NC in fused.items()}
    scores = tuple(
        Candidate(name, float(loss_N.mean()), standard_error(loss_N, exact[0].shape[1]))
        for name, loss_N in losses.items()
    )
    least = min(scores, key=lambda score: score.nll)
    threshold = least.nll + least.error
    selected = next(score.name for score in scores if score.nll <= threshold)
    mixing = ways[selected](exact, labels_N, shares)
    return Choice(selected, mixing, fused[selected], scores, threshold)


def standard_error(loss_N: Tensor, num_classes: int) -> float:
    """Standard error of a mean NLL, where one more image counts as one whose prediction is uniform.

    Without this image, the standard error of a model that classifies all of a few images correctly is
    nearly zero, although its NLL on other images depends on mistakes that these images do not show.

    Example:
        >>> round(standard_error(torch.zeros(3), 2), 4)  # std of (0, 0, 0, log 2) is 0.3466, divided by √4
        0.1733
    """
    uniform = loss_N.new_tensor([num_classes]).log()
    return float(torch.cat([loss_N, uniform]).std() / (len(loss_N) + 1) ** 0.5)


def _ways(logs: Sequence[Tensor], labels_N: Tensor, names: Sequence[str]) -> dict[str, Fit]:
    """All candidates, in the order in which they are preferred."""
    # Each fold can fit a different best teacher, but the candidate is named after the best on all images.
    weights = fit_best_teacher(logs, labels_N).weights
    best = max(range(len(logs)), key=weights.__getitem__)
    alone: dict[str, Fit] = {f"{names[best]} alone": fit_best_teacher}
    if len(logs) == 1:
        return alone
    (first, fit), *richer = candidates().items()
    return {first: fit} if len(labels_N) < LEAST_IMAGES else {first: fit, **alone, **dict(richer)}


def fit_best_teacher(logs: Sequence[Tensor], labels_N: Tensor, shares: Shares = None) -> LogPool:
    """Fit a temperature for each teacher and keep the teacher with the smallest NLL.

    Args:
        logs: each teacher's log-probabilities (N, C).
        labels_N: the labels of the images.
        shares: not used; a teacher alone is fitted around its own scale.

    Returns:
        A logarithmic pool in which the kept teacher has the weight 1 / temperature and all others have 0.

    Example:
        >>> labels_N = torch.tensor([0, 1])
        >>> good_NC = torch.tensor([[0.7, 0.3], [0.3, 0.7]]).log()
        >>> poor_NC = torch.tensor([[0.4, 0.6], [0.6, 0.4]]).log()
        >>> [w > 0 for w in fit_best_teacher([good_NC, poor_NC], labels_N).weights]
        [True, False]
    """
    pools = []
    for m, log_NC in enumerate(logs):
        (weight,) = fit_log_pool([log_NC], labels_N).weights
        pools.append(LogPool(tuple(weight if m == k else 0.0 for k in range(len(logs)))))
    exact = [log_NC.double() for log_NC in logs]
    return min(pools, key=lambda pool: float(nll_of(pool, exact, labels_N).mean()))


def cross_fitted(
    fit: Fit, logs: Sequence[Tensor], labels_N: Tensor, shares: Shares = None, folds: int = FIT_FOLDS
) -> Tensor:
    """Fused logits (N, C) of every image, from a fit on at most `FIT_IMAGES` images of the other folds.

    With fewer than two images per fold a fit is meaningless, so the shares are used as they are.

    Example:
        >>> logs = [torch.tensor([[-1.0, -2.0]]), torch.tensor([[-3.0, -4.0]])]
        >>> cross_fitted(fit_log_pool, logs, torch.tensor([0])).tolist()  # too few images: equal shares
        [[-2.0, -3.0]]
    """
    exact = [log_NC.double() for log_NC in logs]
    if len(labels_N) < 2 * folds:
        return LogPool(shares or equal_shares(len(logs)))(exact)
    fold_N = folds_of(labels_N, folds)
    fused_NC = torch.empty_like(exact[0])
    for fold in range(folds):
        out_N = fold_N == fold
        # Take evenly spaced images from those sorted by class, so that the class frequencies stay the same.
        others = (~out_N).nonzero()[:, 0]
        others = others[labels_N[others].argsort(stable=True)]
        others = others[:: -(-len(others) // FIT_IMAGES)].sort().values
        mixing = fit([log_NC[others] for log_NC in exact], labels_N[others], shares)
        fused_NC[out_N] = mixing([log_NC[out_N] for log_NC in exact])
    return fused_NC
