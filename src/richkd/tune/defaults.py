"""The space that is searched if the plan has none."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from richkd.compare.merging import is_fused
from richkd.config.schema import Config
from richkd.methods.objective import LABELS, read_objective
from richkd.methods.term import LogitConfig

TEMPERATURES = (1, 2, 3, 4, 6, 8)
MIXUP = (0, 0.2, 0.4)
# How far a search goes from the setting of the plan: a tenth to ten times of a rate, a fifth to five times
# of a weight, whose effect is smaller.
RATE, WEIGHT = 10.0, 5.0


def default_space(config: Config) -> dict[str, Any]:
    """Learning rate, mixup, the weight and the temperature of each term, and how teachers are fused.

    Args:
        config: the settings of a method without a search.

    Returns:
        A space as in a plan.

    Example:
        >>> base = {"data": {"path": "."}, "student": {"name": "resnet18"}, "method": {"name": "kd"}}
        >>> list(default_space(Config.model_validate(base | {"teachers": [{"name": "resnet50"}]})))
        ['optim.lr', 'augment.mixup_alpha', 'objective.kd.weight', 'objective.kd.temperature']
    """
    space: dict[str, Any] = {
        "optim.lr": _around(config.optim.lr, RATE),
        "augment.mixup_alpha": _with(MIXUP, config.augment.mixup_alpha),
    }
    for spec in read_objective(config):
        # A common factor of all weights is a matter of the learning rate, so the weight of labels stays.
        if spec.target != LABELS and spec.config.weight > 0:
            space[f"objective.{spec.label}.weight"] = _around(spec.config.weight, WEIGHT)
        temperature = getattr(spec.config, "temperature", None)
        # The temperature of a contrastive loss is of another kind.
        if isinstance(spec.config, LogitConfig) and temperature is not None:
            space[f"objective.{spec.label}.temperature"] = _with(TEMPERATURES, temperature)
    if is_fused(config) and config.fusion.control is None:
        space["fusion"] = {
            "default": {"fusion.preset": "default"},
            "paper 0.7": {"fusion.preset": "paper", "fusion.alpha": 0.7},
            "paper 0.5": {"fusion.preset": "paper", "fusion.alpha": 0.5},
            "paper 0.3": {"fusion.preset": "paper", "fusion.alpha": 0.3},
        }
    return space


def _with(values: Sequence[float], own: float) -> list[float]:
    """Some values and that of the plan, each once."""
    return sorted({*values, own})


def _around(value: float, factor: float) -> dict[str, Any]:
    return {"low": value / factor, "high": value * factor, "log": True}
