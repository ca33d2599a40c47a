"""The ways of mixing that ``fusion.mixing`` can name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from richkd.config.choices import MIXINGS
from richkd.fusion.fit import (
    Shares,
    fit_gate,
    fit_linear_pool,
    fit_log_pool,
    fit_per_class,
    fit_simplex,
)
from richkd.fusion.mixing import Gate, LogPool, Mixing
from richkd.fusion.shares import equal_shares

Fit = Callable[[Sequence[Tensor], Tensor, Shares], Mixing]
Fixed = Callable[[tuple[float, ...]], Mixing]


@dataclass(frozen=True)
class WayOfMixing:
    """How a mixing is made; exactly one of `fit` and `fixed` is given, or neither for ``auto``.

    Attributes:
        fit: from teachers' log-probabilities (each N × C) of held-out images, labels (N), and shares.
        fixed: from each teacher's share (alpha), without held-out images.
        candidate: whether ``auto`` considers it.
    """

    fit: Fit | None = None
    fixed: Fixed | None = None
    candidate: bool = False


def _by_confidence(shares: tuple[float, ...]) -> Mixing:
    count = len(shares)
    return Gate(equal_shares(count), (1.0,) * count)


AUTO, ALPHA = "auto", "alpha"
# In the order from simple to complex, in which ``auto`` prefers them.
MIXINGS.register(AUTO, "the simplest of those below whose cross-fitted NLL is within one standard error")(
    WayOfMixing()
)
MIXINGS.register(ALPHA, "fixed shares: fusion.alpha for the vision teachers, the rest for CLIP")(
    WayOfMixing(fixed=LogPool)
)
MIXINGS.register("log-pool", "one fitted multiplier per teacher")(WayOfMixing(fit_log_pool, candidate=True))
MIXINGS.register("linear", "weighted average of probabilities")(WayOfMixing(fit_linear_pool, candidate=True))
MIXINGS.register("gate", "multipliers that grow with a teacher's confidence in the image")(
    WayOfMixing(fit_gate, candidate=True)
)
MIXINGS.register("per-class", "multipliers per class, regularized towards shared ones")(
    WayOfMixing(fit_per_class, candidate=True)
)
MIXINGS.register("simplex", "fitted multipliers that sum to one", experimental=True)(WayOfMixing(fit_simplex))
MIXINGS.register(
    "confidence", "each teacher weighted by its confidence; nothing is fitted", experimental=True
)(WayOfMixing(fixed=_by_confidence))


def candidates() -> dict[str, Fit]:
    """The fits that ``auto`` chooses from, from simple to complex.

    Example:
        >>> list(candidates())
        ['log-pool', 'linear', 'gate', 'per-class']
    """
    entries = ((entry.name, entry.value) for entry in MIXINGS.entries())
    return {name: way.fit for name, way in entries if way.candidate}
