"""The mixing that held-out images speak for, found by cross-fitting and not by what fits them best."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from richkd.data.split import folds_of
from richkd.fusion.fit import fit_gate, fit_linear_pool, fit_log_pool, fit_per_class, nll_of
from richkd.fusion.mixing import LogPool, Mixing

FOLDS = 5
# Images beyond which a fit hardly moves any more.
FIT_IMAGES = 2500
Fit = Callable[[Sequence[Tensor], Tensor], Mixing]


@dataclass(frozen=True)
class Candidate:
    """A way of mixing on images that it was not fitted on.

    ``nll`` is the mean NLL in nats of fused logits that come, for each image, from the fit without the
    image's fold; ``behind`` is how far that lies above the best candidate's, and ``error`` the standard
    error of this difference, image by image.
    """

    name: str
    nll: float
    behind: float
    error: float


@dataclass(frozen=True)
class Choice:
    """What was chosen, fitted on all held-out images, and how all candidates did.

    ``logits_NC`` are the fused logits of all held-out images, each from the fit without its fold.
    """

    name: str
    mixing: Mixing
    logits_NC: Tensor
    candidates: tuple[Candidate, ...]


def choose(logs: Sequence[Tensor], labels_N: Tensor, names: Sequence[str]) -> Choice:
    """The simplest mixing whose cross-fitted NLL is within one standard error of the least.

    Candidates, from simple to rich: the best teacher alone at its best temperature, the logarithmic pool,
    the linear pool, a gate, weights for each class. With few held-out images errors are large and the
    choice falls back towards the best teacher. Cross-fitting takes at most `FIT_IMAGES`, and what is chosen
    is then fitted on all. The result is never worse on the held-out images than the best teacher: if it is,
    that teacher is chosen.

    Args:
        logs: each teacher's log-probabilities (N, C) of images that no teacher was trained on.
        labels_N: their labels.
        names: the teachers' names.
    """
    exact = [log_NC.double() for log_NC in logs]
    alone = fit_best_teacher(exact, labels_N)
    # Which teacher is best is part of what is fitted, but its name is that of all images.
    best = max(range(len(logs)), key=alone.weights.__getitem__)
    ways: dict[str, Fit] = {f"{names[best]} alone": fit_best_teacher, **ways_of_mixing(len(logs))}
    fused = {name: cross_fitted(fit, exact, labels_N) for name, fit in ways.items()}
    losses = {name: nll_of(LogPool((1.0,)), [fused_NC], labels_N) for name, fused_NC in fused.items()}
    least = min(losses, key=lambda name: float(losses[name].mean()))
    candidates = tuple(
        Candidate(
            name,
            float(loss_N.mean()),
            float((loss_N - losses[least]).mean()),
            float((loss_N - losses[least]).std() / len(loss_N) ** 0.5),
        )
        for name, loss_N in losses.items()
    )
    selected = next(c for c in candidates if c.behind <= c.error).name
    mixing = ways[selected](exact, labels_N)
    if float(nll_of(mixing, exact, labels_N).mean()) > float(nll_of(alone, exact, labels_N).mean()):
        selected, mixing = next(iter(ways)), alone
    return Choice(selected, mixing, fused[selected], candidates)


def ways_of_mixing(num_teachers: int) -> Mapping[str, Fit]:
    """What more than one teacher can be mixed by, from simple to rich."""
    if num_teachers == 1:
        return {}
    return {
        "logarithmic pool": fit_log_pool,
        "linear pool": fit_linear_pool,
        "gate": fit_gate,
        "weights for each class": fit_per_class,
    }


def fit_best_teacher(logs: Sequence[Tensor], labels_N: Tensor) -> LogPool:
    """The teacher with the least NLL, each at its best temperature; the others have weight zero."""
    pools = []
    for m, log_NC in enumerate(logs):
        weight = fit_log_pool([log_NC], labels_N).weights[0]
        pools.append(LogPool(tuple(weight if m == k else 0.0 for k in range(len(logs)))))
    exact = [log_NC.double() for log_NC in logs]
    return min(pools, key=lambda pool: float(nll_of(pool, exact, labels_N).mean()))


def cross_fitted(fit: Fit, logs: Sequence[Tensor], labels_N: Tensor, folds: int = FOLDS) -> Tensor:
    """Fused logits (N, C) of every image from a fit to at most `FIT_IMAGES` images of the other folds.

    Fewer than two images to a fold leave nothing to be said of a fit: all weights are then equal.
    """
    exact = [log_NC.double() for log_NC in logs]
    if len(labels_N) < 2 * folds:
        return LogPool((1 / len(logs),) * len(logs))(exact)
    fold_N = folds_of(labels_N, folds)
    fused_NC = torch.empty_like(exact[0])
    for fold in range(folds):
        out_N = fold_N == fold
        # At even distances among images sorted by class, so that all classes keep their shares.
        others = (~out_N).nonzero()[:, 0]
        others = others[labels_N[others].argsort(stable=True)]
        others = others[:: -(-len(others) // FIT_IMAGES)].sort().values
        mixing = fit([log_NC[others] for log_NC in exact], labels_N[others])
        fused_NC[out_N] = mixing([log_NC[out_N] for log_NC in exact])
    return fused_NC
