"""Recognize probabilities and percentages, exact or rounded, where logits are expected."""

from __future__ import annotations

import torch
from torch import Tensor

# What the numbers of a row sum to, its name, and the fewest decimals that numbers of it are rounded to.
SCALES = ((1.0, "probabilities", 2), (100.0, "percentages", 0))
MOST_DECIMALS = 6
# Units of the last decimal that the largest number of half of the rows must have.
FEWEST_UNITS = 5
# Largest relative difference of the sum of half-precision probabilities of many classes.
SUM_TOLERANCE = 1e-3


def recognized(logits_NC: Tensor) -> str | None:
    """What the rows are if they are no logits, in words; None for logits and log-probabilities.

    Rows are probabilities or percentages if no number is negative or above T, and every row sums to T, which
    is 1 or 100. The tolerance of the sum of C numbers is 0.001·T, or C · ½ · 10⁻ᵈ if all numbers are rounded
    to d decimals: each may be wrong by half of the last decimal. Logits of a ReLU are not negative either,
    but their rows do not all sum to the same number. Log-probabilities are not positive.

    Args:
        logits_NC: the numbers, of any floating-point type.

    Example:
        >>> recognized(torch.tensor([[0.33, 0.33, 0.33], [0.9, 0.05, 0.06]]))
        'probabilities with 2 decimals'
        >>> recognized(torch.tensor([[12.5, 87.5], [99.0, 1.0]]))
        'percentages'
        >>> recognized(torch.tensor([[0.0, 3.1], [2.0, 0.0]])) is None
        True
    """
    if not len(logits_NC) or bool((logits_NC < 0).any()):
        return None
    numbers_NC = logits_NC.double()
    sums_N = numbers_NC.sum(dim=1)
    for total, name, fewest in SCALES:
        if bool(((sums_N - total).abs() <= SUM_TOLERANCE * total).all()):
            return name
        decimals = _decimals(numbers_NC, torch.finfo(logits_NC.dtype).eps, fewest)
        if decimals is None or bool((numbers_NC > total * (1 + SUM_TOLERANCE)).any()):
            continue
        # Numbers of a few units of the last decimal, whatever they are, can sum to anything.
        if float(numbers_NC.amax(dim=1).median()) < FEWEST_UNITS * 10**-decimals:
            continue
        # Rows of many small numbers may be rounded to zeros, but not most rows.
        tolerance = min(0.5 * logits_NC.shape[1] * 10**-decimals, total)
        near = (sums_N - total).abs() <= tolerance * (1 + SUM_TOLERANCE)
        if bool(near.all()) and abs(float(sums_N.mean()) - total) <= 0.5 * total:
            return f"{name} with {decimals} decimal{'s' * (decimals != 1)}"
    return None


def _decimals(numbers_NC: Tensor, precision: float, fewest: int) -> int | None:
    """The number of decimals that all numbers are rounded to; None for more than `MOST_DECIMALS`."""
    for decimals in range(fewest, MOST_DECIMALS + 1):
        scaled_NC = numbers_NC * 10**decimals
        rounding_NC = (scaled_NC * precision).clamp(min=1e-6)
        if bool(((scaled_NC - scaled_NC.round()).abs() <= rounding_NC).all()):
            return decimals
    return None
