"""The settings of a run, merged from the parts of a plan."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterable, Mapping
from typing import Any

from richkd.compare.layers import Given, Layer
from richkd.config.loading import load_config
from richkd.config.names import OBJECTIVE, TEACHERS
from richkd.config.schema import Config
from richkd.core.errors import ConfigError, RichKDError
from richkd.methods.objective import LABELS, read_objective
from richkd.pipeline.roles import CLIP, FUSED, assign_roles
from richkd.pipeline.unused import refuse_unused, unused

# The parts whose settings a method need not read.
SHARED = ("base", "data", "pairs", "plan", "space")
OPTIONS = "In a plan, options are settings: `clip: {name: …}` for --clip."


def merge(layers: Iterable[Layer], place: str) -> tuple[Config, Layer]:
    """Merge layers, the last of which wins, and drop shared settings that the run does not read.

    Args:
        layers: the parts.
        place: where the method is written, for errors that are about no single setting.

    Returns:
        The settings, and where those that are left were given.

    Raises:
        RichKDError: a setting does not take its value, or the settings do not fit each other; the message has
            the line of the setting, or of the method.
    """
    merged: Layer = {}
    for layer in layers:
        for dotted, given in layer.items():
            _put(merged, dotted, given)
    try:
        merged = _with_read_terms(merged)
        _drop_teachers(merged)
        _drop_unused(merged)
        return _config(merged), merged
    except RichKDError as error:
        raise with_place(error, merged, place) from None


def with_place(error: RichKDError, layer: Mapping[str, Given], place: str) -> RichKDError:
    """The error with the line of the setting that its rule names, else with another place.

    Example:
        >>> layer = {"optim.lr": Given(-1, "plan.yaml, line 3", "base")}
        >>> with_place(ConfigError("Setting 'optim.lr' must be positive"), layer, "plan.yaml, line 9").rule
        "Setting 'optim.lr' must be positive (plan.yaml, line 3)"
    """
    named = next((given.place for name, given in layer.items() if _is_about(error, name, given)), place)
    # Most messages are about the command line, where the same settings are options.
    fix = f"{error.fix} {OPTIONS}" if re.search(r"(?<!\w)--?[a-z]", error.fix or "") else error.fix
    return type(error)(f"{error.rule} ({named})", got=error.got, fix=fix)


def _is_about(error: RichKDError, name: str, given: Given) -> bool:
    """Whether an error names a setting by its dotted name, by its word in a term, or by its value."""
    above, _, leaf = name.rpartition(".")
    whole = rf"(?<![\w.]){re.escape(name)}(?![\w.])" if above else f"'{name}'"
    in_term = f"'{leaf}' (in {above})" if above else None
    quoted = f"'{given.value}'" if isinstance(given.value, str) and given.value else None
    return re.search(whole, error.rule) is not None or any(
        text is not None and text in error.rule for text in (in_term, quoted)
    )


def is_fused(config: Config) -> bool:
    """Whether a target of the run is a fusion of vision teachers with a CLIP.

    Example:
        >>> base = {"data": {"path": "."}, "student": {"name": "resnet18"}}
        >>> both = {"teachers": [{"name": "resnet50"}], "clip": {"name": "ViT-B-32:openai"}}
        >>> is_fused(Config.model_validate(base | both)), is_fused(Config.model_validate(base))
        (True, False)
    """
    targets = {spec.target for spec in read_objective(config)}
    return FUSED in targets and bool(config.teachers) and config.clip is not None


def is_in(dotted: str, kept: Layer) -> bool:
    """Whether a setting, or the section that replaced it, is one of those of a run.

    Example:
        >>> is_in("teachers.1.size", {"teachers": Given([], "plan.yaml, line 3", "base")})
        True
    """
    return any(name == dotted or dotted.startswith(f"{name}.") for name in kept)


def _put(merged: Layer, dotted: str, given: Given) -> None:
    """Set a setting; a whole section replaces what was set in it, except for shared settings of terms."""
    within = [name for name in merged if name.startswith(f"{dotted}.")] if dotted != OBJECTIVE else []
    for name in (dotted, *within):
        merged.pop(name, None)
    merged[dotted] = given


def _config(merged: Layer) -> Config:
    # Later layers change items of lists in place.
    return load_config(None, {name: copy.deepcopy(given.value) for name, given in merged.items()})


def _with_read_terms(merged: Layer) -> Layer:
    """The settings with those shared settings of terms only that the method has."""
    shared = {
        name: given
        for name, given in merged.items()
        if name.startswith(f"{OBJECTIVE}.") and given.part in SHARED
    }
    rest = {name: given for name, given in merged.items() if name not in shared}
    config = _config(rest)
    labels = {spec.label for spec in read_objective(config)}
    written = {
        f"{OBJECTIVE}.{label}.{leaf}"
        for entry in (config.objective if isinstance(config.objective, list) else ())
        for label, settings in entry.items()
        for leaf in settings or {}
    }
    read = {n: g for n, g in shared.items() if n.split(".")[1] in labels and n not in written}
    return rest | read


def _drop_teachers(merged: Layer) -> None:
    """Drop the teachers and the CLIP of shared parts if no term reads any of them."""
    targets = {spec.target for spec in read_objective(_config(merged))}
    if not targets & {FUSED, CLIP}:
        _drop(merged, CLIP)
    if not targets - {LABELS, CLIP}:
        _drop(merged, TEACHERS)


def _drop(merged: Layer, section: str) -> None:
    names = [name for name in merged if name == section or name.startswith(f"{section}.")]
    # A method that gives a teacher itself must read it.
    if all(merged[name].part in SHARED for name in names):
        for name in names:
            del merged[name]


def _drop_unused(merged: Layer) -> None:
    """Drop shared settings that have no effect in this run, such as ``fusion.alpha`` for a single teacher.

    Raises:
        ConfigError: a setting of the method itself has no effect.
    """
    while True:
        config = _config(merged)
        specs = read_objective(config)
        names = {name for name, _ in unused(config, specs, assign_roles(config, specs))}
        dropped = [name for name in names if name in merged and merged[name].part in SHARED]
        if not dropped:
            refuse_unused(config, specs, assign_roles(config, specs))
            return
        for name in dropped:
            del merged[name]


def refuse_never_read(layers: Iterable[Layer], read: set[int]) -> None:
    """Refuse a setting of a shared part that no run reads.

    Args:
        layers: the shared parts.
        read: identities of the settings that some run was given, or that others replaced.

    Raises:
        ConfigError: names the first such setting, with its line.
    """
    for layer in layers:
        for dotted, given in layer.items():
            if id(given) not in read:
                raise ConfigError(
                    f"Setting '{dotted}' has no effect in any run of the plan ({given.place})",
                    got=f"{dotted} {_shown(given.value)}",
                    fix=f"remove {dotted}, or add a method that reads it.",
                )


def _shown(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 100 else f"{text[:100]}…"
