"""The space that is searched if the plan has none."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from richkd.compare.merging import is_fused
from richkd.config.entropy import MATCH_TEACHER, OWN
from richkd.config.model_name import parse_model_name
from richkd.config.schema import Config
from richkd.core.errors import ConfigError
from richkd.fusion.presets import PAPER_ALPHA
from richkd.methods.objective import LABELS, read_objective, softening_terms
from richkd.methods.term import LogitConfig
from richkd.pipeline.roles import FUSED
from richkd.pipeline.sharpen import entropy_temperature

TEMPERATURES = (1, 2, 3, 4, 6, 8)
MIXUP = (0, 0.2, 0.4)
DEFAULT, PAPER, ALPHAS = "default", "paper", (0.7, 0.5, 0.3)
# Settings of a fusion that cannot be combined with every preset and α.
USER_FUSION = ("scale", "mixing", "weights", "labeled", "unlabeled")
FOLD_SHARES = (0.0, 0.5, 1.0)
# How far a search goes from the setting of the plan: a tenth to ten times of a rate, a fifth to five times
# of a weight, whose effect is smaller.
RATE, WEIGHT = 10.0, 5.0


def default_space(config: Config) -> dict[str, Any]:
    """Learning rate, mixup, weight and temperature of each term, how teachers are fused, and shares of folds.

    A fusion with a scale, a mixing, weights, or other settings for some images is the user's own, and stays.

    Args:
        config: the settings of a method without a search.

    Returns:
        A space as in a plan.

    Example:
        >>> base = {"data": {"path": "."}, "student": {"name": "resnet18"}, "method": {"name": "kd"}}
        >>> list(default_space(Config.model_validate(base | {"teachers": [{"name": "resnet50"}]})))
        ['optim.lr', 'augment.mixup_alpha', 'objective.kd.weight', 'objective.kd.temperature']
        >>> folds = [{"name": "folds:runs/folds", "fold_share": 0.7}]
        >>> default_space(Config.model_validate(base | {"teachers": folds}))["teachers.1.fold_share"]
        [0.0, 0.5, 0.7, 1.0]
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
        if not any(getattr(config.fusion, name) for name in USER_FUSION):
            space["fusion"] = _fusions(config.fusion.preset, config.fusion.alpha)
        if _has_entropy(config):
            entropy = config.fusion.entropy
            known = (OWN, MATCH_TEACHER)
            space["fusion.entropy"] = [*known, *([] if entropy in known else [entropy])]
    for place, teacher in enumerate(config.teachers, 1):
        if parse_model_name(teacher.name).kind == "folds":
            space[f"teachers.{place}.fold_share"] = _with(FOLD_SHARES, teacher.used_fold_share)
    return space


def _has_entropy(config: Config) -> bool:
    """Whether one term reads the fused logits, at a temperature that stays."""
    specs = read_objective(config)
    if len(softening_terms(specs, FUSED)) != 1:
        return False
    try:
        return entropy_temperature(specs, FUSED) > 0
    except ConfigError:
        return False


def _fusions(preset: str, alpha: float | None) -> dict[str, dict[str, Any]]:
    """The fusions that are tried, and that of the plan, each once.

    Example:
        >>> list(_fusions("paper", 0.4))
        ['default', 'paper 0.7', 'paper 0.5', 'paper 0.3', 'paper 0.4']
        >>> _fusions("paper", None)["paper 0.7"]
        {'fusion.preset': 'paper', 'fusion.alpha': 0.7}
        >>> _fusions("default", 0.4)["default"]  # not the alpha of the plan
        {'fusion.preset': 'default', 'fusion.alpha': None}
    """
    if alpha is None and preset != DEFAULT:
        alpha = PAPER_ALPHA
    fusions = [(DEFAULT, None), *((PAPER, share) for share in ALPHAS)]
    if (preset, alpha) not in fusions:
        fusions.append((preset, alpha))
    return {
        preset if alpha is None else f"{preset} {alpha:g}": {"fusion.preset": preset, "fusion.alpha": alpha}
        for preset, alpha in fusions
    }


def _with(values: Sequence[float], planned: float) -> list[float]:
    """Some values and that of the plan, each once."""
    return sorted({*values, planned})


def _around(value: float, factor: float) -> dict[str, Any]:
    return {"low": value / factor, "high": value * factor, "log": True}
