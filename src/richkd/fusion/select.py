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
from richkd.fusion.fit import fit_log_pool, nll_of
from richkd.fusion.mixing import LogPool, Mixing
from richkd.fusion.mixings import Fit, candidates

FOLDS = 5
# More images than this hardly change the fitted weights.
FIT_IMAGES = 2500


@dataclass(frozen=True)
class Candidate:
    """The cross-fitted score of one way of mixing.

    Attributes:
        name: name of the way of mixing.
        nll: mean negative log-likelihood in nats; the fused logits of each image come from the fit that
            excludes the image's fold.
        behind: ``nll`` minus the smallest ``nll`` of all candidates; ≥ 0.
        error: standard error of ``behind``, from the differences per image.
    """

    name: str
    nll: float
    behind: float
    error: float


@dataclass(frozen=True)
class Choice:
    """The selected mixing and the scores of all candidates.

    Attributes:
        name: name of the selected candidate.
        mixing: the selected mixing, fitted on all held-out images.
        logits_NC: fused logits of all held-out images, each from the fit that excludes the image's fold.
        candidates: the scores of all candidates, from simple to complex.
    """

    name: str
    mixing: Mixing
    logits_NC: Tensor
    candidates: tuple[Candidate, ...]


def choose(logs: Sequence[Tensor], labels_N: Tensor, names: Sequence[str]) -> Choice:
    """Select the simplest mixing whose cross-fitted NLL is within one standard error of the smallest NLL.

    The candidates, from simple to complex, are the best teacher alone at its best temperature, and those of
    `richkd.fusion.mixings.candidates`. With few held-out images the standard errors are large, and the rule
    tends to select the best teacher alone.

    Cross-fitting uses at most `FIT_IMAGES` images; the selected candidate is then fitted on all images. If
    it has a higher NLL on the held-out images than the best teacher alone, the best teacher is selected.

    Args:
        logs: each teacher's log-probabilities (N, C) of images that no teacher was trained on.
        labels_N: the labels of these images.
        names: the teachers' names.

    Example:
        >>> labels_N = torch.arange(40) % 2
        >>> good_NC = torch.nn.functional.one_hot(labels_N, 2).double().mul(2).log_softmax(dim=1)
        >>> poor_NC = torch.zeros(40, 2).double().log_softmax(dim=1)
        >>> choose([good_NC, poor_NC], labels_N, ["good", "poor"]).name
        'good alone'
    """
    exact = [log_NC.double() for log_NC in logs]
    best_teacher = fit_best_teacher(exact, labels_N)
    # Each fold can fit a different best teacher, but the candidate is named after the best on all images.
    best = max(range(len(logs)), key=best_teacher.weights.__getitem__)
    ways: dict[str, Fit] = {
        f"{names[best]} alone": fit_best_teacher,
        **(candidates() if len(logs) > 1 else {}),
    }
    fused = {name: cross_fitted(fit, exact, labels_N) for name, fit in ways.items()}
    losses = {name: nll_of(LogPool((1.0,)), [fused_NC], labels_N) for name, fused_NC in fused.items()}
    least = min(losses, key=lambda name: float(losses[name].mean()))
    scores = tuple(
        Candidate(
            name,
            float(loss_N.mean()),
            float((loss_N - losses[least]).mean()),
            float((loss_N - losses[least]).std() / len(loss_N) ** 0.5),
        )
        for name, loss_N in losses.items()
    )
    selected = next(c for c in scores if c.behind <= c.error).name
    mixing = ways[selected](exact, labels_N)
    if float(nll_of(mixing, exact, labels_N).mean()) > float(nll_of(best_teacher, exact, labels_N).mean()):
        selected, mixing = next(iter(ways)), best_teacher
    return Choice(selected, mixing, fused[selected], scores)


def fit_best_teacher(logs: Sequence[Tensor], labels_N: Tensor) -> LogPool:
    """Fit a temperature for each teacher and keep the teacher with the smallest NLL.

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
        weight = fit_log_pool([log_NC], labels_N).weights[0]
        pools.append(LogPool(tuple(weight if m == k else 0.0 for k in range(len(logs)))))
    exact = [log_NC.double() for log_NC in logs]
    return min(pools, key=lambda pool: float(nll_of(pool, exact, labels_N).mean()))


def cross_fitted(fit: Fit, logs: Sequence[Tensor], labels_N: Tensor, folds: int = FOLDS) -> Tensor:
    """Fused logits (N, C) of every image, from a fit on at most `FIT_IMAGES` images of the other folds.

    With fewer than two images per fold a fit is meaningless, so all teachers get equal weights instead.

    Example:
        >>> logs = [torch.tensor([[-1.0, -2.0]]), torch.tensor([[-3.0, -4.0]])]
        >>> cross_fitted(fit_log_pool, logs, torch.tensor([0])).tolist()  # too few images: equal weights
        [[-2.0, -3.0]]
    """
    exact = [log_NC.double() for log_NC in logs]
    if len(labels_N) < 2 * folds:
        return LogPool((1 / len(logs),) * len(logs))(exact)
    fold_N = folds_of(labels_N, folds)
    fused_NC = torch.empty_like(exact[0])
    for fold in range(folds):
        out_N = fold_N == fold
        # Take evenly spaced images from those sorted by class, so that the class frequencies stay the same.
        others = (~out_N).nonzero()[:, 0]
        others = others[labels_N[others].argsort(stable=True)]
        others = others[:: -(-len(others) // FIT_IMAGES)].sort().values
        mixing = fit([log_NC[others] for log_NC in exact], labels_N[others])
        fused_NC[out_N] = mixing([log_NC[out_N] for log_NC in exact])
    return fused_NC
