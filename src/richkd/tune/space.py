"""The space of a search: ranges and choices of settings, and what a trial's point in it means."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from richkd.compare.layers import Given, Layer, check_setting, leaves
from richkd.config.listing import takes_whole_numbers
from richkd.core.errors import ConfigError, Problems

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

RANGE_KEYS = ("low", "high", "log", "step")
# Significant digits of drawn numbers: more have no meaning, and would be unpleasant in a recipe.
DIGITS = 3
# Drawn numbers have about 16 digits. One with fewer was written in the plan, and stays as it is.
WRITTEN_DIGITS = 6
# Steps such as 0.1 add up to numbers such as 0.30000000000000004.
STEP_DIGITS = 12
# Of a step: the difference of two decimal numbers is no exact multiple of a third.
STEP_TOLERANCE = 1e-8
SHOWN = 200

Point = Mapping[str, Any]


@dataclass(frozen=True)
class Range:
    """A range of numbers.

    Attributes:
        name: name of the setting.
        place: where it is written.
        low, high: its ends.
        log: whether equal factors are equally probable, instead of equal differences.
        step: distance between values, from ``low``; None for all numbers.
        whole: whether only whole numbers are drawn.
    """

    name: str
    place: str
    low: float
    high: float
    log: bool = False
    step: float | None = None
    whole: bool = False

    @property
    def distribution(self) -> BaseDistribution:
        """What Optuna draws from."""
        from optuna.distributions import FloatDistribution, IntDistribution

        if self.whole:
            return IntDistribution(int(self.low), int(self.high), log=self.log, step=int(self.step or 1))
        return FloatDistribution(self.low, self.high, log=self.log, step=self.step)

    def settings(self, value: Any) -> dict[str, Any]:
        """The setting of a value; a drawn one is rounded, but stays in the range.

        Example:
            >>> Range("optim.lr", "plan.yaml", 0.001, 0.1, log=True).settings(0.012345678)
            {'optim.lr': 0.0123}
            >>> Range("optim.momentum", "plan.yaml", 0.9, 0.9999).settings(0.99987654)
            {'optim.momentum': 0.9999}
        """
        if isinstance(value, int):
            return {self.name: value}
        is_written = float(f"{value:.{WRITTEN_DIGITS}g}") == value
        digits = DIGITS if self.step is None and not is_written else STEP_DIGITS
        rounded = float(f"{value:.{digits}g}")
        return {self.name: float(min(max(rounded, self.low), self.high))}

    def samples(self) -> list[Any]:
        """Values whose settings are checked before the search."""
        return [self.low, self.high]

    def value_of(self, given: Mapping[str, Any]) -> Any:
        """The value that given settings have here; None if it is outside."""
        value = given.get(self.name)
        if value is None or not _is_number(value) or not self.low <= value <= self.high:
            return None
        step = 1 if self.whole and self.step is None else self.step
        steps = 0.0 if step is None else (value - self.low) / step
        return value if abs(steps - round(steps)) < STEP_TOLERANCE else None


@dataclass(frozen=True)
class Choices:
    """Some choices, each of them one or several settings.

    Attributes:
        name: name of the setting, or any name of several settings.
        place: where it is written.
        options: settings by the name of the choice.
    """

    name: str
    place: str
    options: dict[str, dict[str, Any]]

    @property
    def distribution(self) -> BaseDistribution:
        """What Optuna draws from: names of choices."""
        from optuna.distributions import CategoricalDistribution

        return CategoricalDistribution(list(self.options))

    def settings(self, value: Any) -> dict[str, Any]:
        """The settings of a choice."""
        return self.options[value]

    def samples(self) -> list[Any]:
        """Choices whose settings are checked before the search: all."""
        return list(self.options)

    def value_of(self, given: Mapping[str, Any]) -> Any:
        """The choice that given settings are; None if they are none."""
        for name, settings in self.options.items():
            if all(given.get(key) == value for key, value in settings.items()):
                return name
        return None


Entry = Range | Choices


def read_space(space: Mapping[str, Any], place_of: Callable[[str], str]) -> list[Entry]:
    """The entries of a space.

    Args:
        space: as in the plan.
        place_of: gives the place of an entry's name, for messages.

    Raises:
        ConfigError: entries that are no ranges or choices, and settings that do not exist or may not be
            searched; all of them are listed.
    """
    problems = Problems(ConfigError)
    entries = [problems.attempt(_entry, name, given, place_of(name)) for name, given in space.items()]
    for entry in entries:
        if entry is not None:
            settings = {key for sample in entry.samples() for key in entry.settings(sample)}
            for dotted in sorted(settings):
                problems.attempt(check_setting, dotted, Given(None, entry.place, "space"), budgets=True)
    problems.refuse_all()
    return [entry for entry in entries if entry is not None]


def layer_of(entries: list[Entry], point: Point) -> Layer:
    """The settings of a point, as a part of a plan.

    Example:
        >>> entries = [Range("optim.lr", "plan.yaml, line 3", 0.01, 0.1)]
        >>> layer_of(entries, {"optim.lr": 0.02})["optim.lr"].value
        0.02
    """
    return {
        dotted: Given(value, entry.place, "space")
        for entry in entries
        if entry.name in point
        for dotted, value in entry.settings(point[entry.name]).items()
    }


def _entry(name: str, given: Any, place: str) -> Entry:
    if isinstance(given, Mapping) and any(key in RANGE_KEYS for key in given):
        return _range(name, given, place)
    if isinstance(given, list) and len(given) > 1:
        options = {_text(value): {name: value} for value in given}
        if len(options) == len(given):
            return Choices(name, place, options)
    elif isinstance(given, Mapping) and len(given) > 1 and all(_is_settings(v) for v in given.values()):
        options = {str(choice): _by_name(settings) for choice, settings in given.items()}
        return Choices(name, place, options)
    raise ConfigError(
        f"An entry of the space must be a range, or two choices or more, each of them once ({place})",
        got=f"{name}: {given!r}"[:SHOWN],
        fix="write `optim.lr: {low: 0.01, high: 0.3, log: true}`, `objective.kd.temperature: [1, 2, 4]`, or "
        "`target: {teacher: {fusion.alpha: 1}, both: {fusion.alpha: 0.7}}`.",
    )


def _is_settings(value: Any) -> bool:
    return isinstance(value, Mapping) and bool(value) and all(isinstance(key, str) for key in value)


def _by_name(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {dotted: value for dotted, value, _ in leaves(settings)}


def _range(name: str, given: Mapping[str, Any], place: str) -> Range:
    unknown = [key for key in given if key not in RANGE_KEYS]
    low, high, step = (_number(given.get(key)) for key in ("low", "high", "step"))
    log = given.get("log", False)
    sound = not unknown and isinstance(log, bool) and (step is not None) == (given.get("step") is not None)
    if sound and low is not None and high is not None and low < high:
        fits = not (low <= 0 or step is not None) if log else step is None or 0 < step <= high - low
        given_whole = all(isinstance(x, int) for x in (low, high, 1 if step is None else step))
        whole = given_whole and (step is not None or takes_whole_numbers(name))
        if fits and (whole or not takes_whole_numbers(name)):
            return Range(name, place, low, high, log, step, whole)
    raise ConfigError(
        "A range must have low < high and a step that fits between them, low > 0 and no step with log: true, "
        f"and whole numbers for a setting that takes only these ({place})",
        got=f"{name}: {dict(given)!r}"[:SHOWN],
        fix="write `{low: 0.01, high: 0.3, log: true}` or `{low: 1, high: 8, step: 1}`.",
    )


def _number(value: Any) -> float | None:
    """A number, also one such as 1e-3, which YAML reads as text; None for other values."""
    if isinstance(value, str):
        with suppress(ValueError):
            value = float(value)
    return value if _is_number(value) else None


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _text(value: Any) -> str:
    """A value as the name of a choice: as JSON, without quotes around text."""
    return value if isinstance(value, str) else json.dumps(value)
