"""How sharp a target is: its mean entropy, and the factor that gives it another one."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from richkd.core.errors import ConfigError
from richkd.core.numerics import in_float64

# Factors are searched between 2^-LARGEST and 2^LARGEST, by this number of halvings of log f.
LARGEST, HALVINGS = 64, 60


def mean_entropy(logits_NC: Tensor, temperature: float = 1.0) -> float:
    """Mean over images of the entropy ``−Σ_c p_c log p_c`` with ``p = softmax(z / T)``, in nats.

    Computed in float64. Logits may be −∞.

    Args:
        logits_NC: logits z.
        temperature: T.

    Example:
        >>> round(mean_entropy(torch.zeros(3, 4)), 4)  # ln 4
        1.3863
    """
    return _entropy_at(in_float64(logits_NC) / temperature, 1.0)


def fit_factor(logits_NC: Tensor, temperature: float, nats: float, name: str = "fusion.entropy") -> float:
    """The factor f > 0 for which ``mean_entropy(f · z, T)`` is a given number of nats.

    With β = f / T, the derivative of an image's entropy with respect to β is −β times the variance of its
    logits under softmax(β z). So the mean entropy falls from ln C to a limit, which is 0 unless images have
    several classes with the largest logit. The only solution is found by bisection of log f.

    Args:
        logits_NC: logits z.
        temperature: T.
        nats: the entropy.
        name: name of the setting, for the error.

    Raises:
        ConfigError: no factor gives this entropy.

    Example:
        >>> logits_NC = torch.tensor([[2.0, 0.0], [1.0, 0.0]], dtype=torch.float64)
        >>> round(fit_factor(3 * logits_NC, 4.0, mean_entropy(logits_NC, 4.0)), 6)
        0.333333
    """
    check_nats(nats, logits_NC.shape[1], name)
    scaled_NC = in_float64(logits_NC) / temperature
    scaled_NC = scaled_NC - scaled_NC.amax(dim=1, keepdim=True)

    def excess(log2_factor: float) -> float:
        return _entropy_at(scaled_NC, 2.0**log2_factor) - nats

    bound = 1.0
    while bound < LARGEST and not excess(bound) < 0 < excess(-bound):
        bound *= 2
    lowest, highest = excess(bound) + nats, excess(-bound) + nats
    if not lowest < nats < highest:
        raise ConfigError(
            f"Setting '{name}' must be an entropy that the fused target has at some factor: between "
            f"{lowest:.4g} and {highest:.4g} nats",
            got=f"{nats:.4g} nats",
            fix=f"choose a number in between, or {name} own.",
        )
    low, high = -bound, bound
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if excess(middle) > 0 else (low, middle)
    return float(2.0 ** ((low + high) / 2))


def check_nats(nats: float, classes: int, name: str = "fusion.entropy") -> None:
    """Check that a target of this many classes can have this entropy.

    Raises:
        ConfigError: it is not between 0 and the entropy ln C of equal probabilities.

    Example:
        >>> check_nats(0.5, classes=2)
    """
    if not 0 < nats < math.log(classes):
        raise ConfigError(
            f"Setting '{name}' must be between 0 and ln C nats, the entropy of C equal probabilities",
            got=f"{nats:.6g} nats for {classes} classes, where ln C is {math.log(classes):.6g}",
            fix=f"choose a smaller number, or {name} match-teacher.",
        )


def _entropy_at(logits_NC: Tensor, factor: float) -> float:
    probs_NC = (factor * logits_NC).softmax(dim=1)
    return float(torch.special.entr(probs_NC).sum(dim=1).mean())
