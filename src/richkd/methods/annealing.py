"""Annealing: the weight of a term falls to zero during the run; the end belongs to the other terms."""

from __future__ import annotations

import math
from typing import Literal

Annealing = Literal["none", "linear", "cosine"]


def annealed(weight: float, annealing: Annealing, progress: float) -> float:
    """The weight of a term at some progress of the run.

    ``none``: w. ``linear``: ``w · (1 − p)``. ``cosine``: ``w · (1 + cos πp) / 2``.

    Args:
        weight: w, the weight at the start.
        annealing: how it falls.
        progress: p, the fraction of the run that is done, in [0, 1].

    Example:
        >>> annealed(2.0, "none", 0.75), annealed(2.0, "linear", 0.75), annealed(2.0, "cosine", 0.5)
        (2.0, 0.5, 1.0)
    """
    if annealing == "linear":
        return weight * (1 - progress)
    if annealing == "cosine":
        return weight * (1 + math.cos(math.pi * progress)) / 2
    return weight
