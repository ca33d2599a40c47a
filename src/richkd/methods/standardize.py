"""Logit standardization: a term compares z-scores of logits, so the student need not have the target's scale.

The setting ``standardize`` of a logit term asks for it. The objective standardizes the logits of student and
target before the term sees them, so that no term contains code for it.

Source: Sun, Ren, Li, Wang and Cao, "Logit standardization in knowledge distillation", CVPR 2024, algorithm 1.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from richkd.core.errors import ConfigError
from richkd.core.numerics import at_least_fp32
from richkd.core.types import Output, Target

SETTING = "standardize"
# Added to the standard deviation in the authors' code.
EPSILON = 1e-7
# The z-scores of two logits are always ±0.71, so they have no gradient.
FEWEST_CLASSES = 3


def standardize(logits_BC: Tensor) -> Tensor:
    """``(z − mean(z)) / std(z)`` of each image over its classes, in float32 or higher.

    The standard deviation has C − 1 in its denominator, as in the authors' code. Logits that are all equal
    become zeros, and their gradient is that of ``z − mean(z)``: the quotient would have one of about 1e7.

    Example:
        >>> standardize(torch.tensor([[10.0, 20.0, 30.0], [5.0, 5.0, 5.0]])).tolist()
        [[-1.0, 0.0, 1.0], [0.0, 0.0, 0.0]]
    """
    logits_BC = at_least_fp32(logits_BC)
    centered_BC = logits_BC - logits_BC.mean(dim=1, keepdim=True)
    std_B1 = logits_BC.std(dim=1, keepdim=True)
    return centered_BC / torch.where(std_B1 > 0, std_B1 + EPSILON, torch.ones_like(std_B1))


def standardized_output(output: Output) -> Output:
    """The output of a network with standardized logits.

    Example:
        >>> output = standardized_output(Output(torch.tensor([[1.0, 2.0, 3.0]]), torch.zeros(1, 4)))
        >>> [round(z, 4) for z in output.logits_BC[0].tolist()]
        [-1.0, 0.0, 1.0]
    """
    return replace(output, logits_BC=standardize(output.logits_BC))


def standardized_target(target: Target) -> Target:
    """The target with standardized logits: its own, and those of the teachers behind it.

    Example:
        >>> logits_BC = torch.tensor([[1.0, 2.0, 3.0]])
        >>> target = standardized_target(Target(logits_BC, (Output(5 * logits_BC, logits_BC),), (1.0,)))
        >>> bool(torch.allclose(target.logits_BC, target.teachers[0].logits_BC))
        True
    """
    teachers = tuple(standardized_output(teacher) for teacher in target.teachers)
    return replace(target, logits_BC=standardize(target.logits_BC), teachers=teachers)


def check_standardized(label: str, classes: int) -> None:
    """Check that z-scores of this number of classes have a gradient.

    Raises:
        ConfigError: there are only two classes.

    Example:
        >>> check_standardized("kd", 3)
    """
    if classes < FEWEST_CLASSES:
        raise ConfigError(
            f"Setting 'objective.{label}.{SETTING}' needs three classes or more: z-scores of two logits are "
            "constant, so the term would teach nothing",
            got=f"{classes} classes",
            fix=f"remove objective.{label}.{SETTING}.",
        )
