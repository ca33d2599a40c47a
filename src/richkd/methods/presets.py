"""Named objectives: the method of the paper in its variants, and every term by itself beside the labels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from richkd.config.choices import TERMS
from richkd.config.schema import MethodConfig
from richkd.core.errors import ConfigError, nearest

Settings = dict[str, dict[str, Any]]

# RichKD: labels, fused logits, and fused features through the contrastive loss (arXiv 2511.09286).
RICHKD: Mapping[str, Settings] = {
    "l": {"ce": {}, "kd": {"target": "fused"}},
    "f": {"ce": {}, "contrastive": {"target": "fused"}},
    "lf": {"ce": {}, "kd": {"target": "fused"}, "contrastive": {"target": "fused"}},
}
DEFAULT_METHOD, DEFAULT_VARIANT = "richkd", "lf"


@dataclass(frozen=True)
class Preset:
    """A method by name: its terms with their settings, and whether it is defined only with a CLIP."""

    name: str
    terms: Settings
    needs_clip: bool = False


def method_names() -> tuple[str, ...]:
    """Everything that ``--method`` accepts.

    Example:
        >>> [name for name in method_names() if name in ("richkd", "kd", "ce")]
        ['richkd', 'ce', 'kd']
    """
    return (DEFAULT_METHOD, *TERMS)


def preset_of(config: MethodConfig) -> Preset:
    """The terms that a method stands for: those of RichKD, or one term beside cross-entropy.

    A term other than ``ce`` reads the vision teachers, which is how its authors define it.

    Raises:
        ConfigError: an unknown method (with the nearest name), or a variant of a method that has none.

    Example:
        >>> preset_of(MethodConfig(name="kd")).terms
        {'ce': {}, 'kd': {'target': 'teacher'}}
    """
    name = config.name or DEFAULT_METHOD
    if name == DEFAULT_METHOD:
        return Preset(name, RICHKD[config.variant or DEFAULT_VARIANT], needs_clip=True)
    if config.variant is not None:
        raise ConfigError(
            f"method.variant belongs to method richkd; method {name} has no variants",
            got=f"method.variant {config.variant}",
            fix="remove --variant (--method.variant null removes that of a recipe), or use --method richkd.",
        )
    if name not in TERMS:
        hint = nearest(name, method_names(), TERMS.listing)
        raise ConfigError(f"There is no method '{name}'", fix=hint)
    term: Settings = {} if name == "ce" else {name: {"target": "teacher"}}
    return Preset(name, {"ce": {}} | term)
