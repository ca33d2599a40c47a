"""The space of a search: ranges and choices of settings, and what a trial's point in it means."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from richkd.compare.layers import Given, Layer, check_setting, leaves
from richkd.core.errors import ConfigError, Problems

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

RANGE_KEYS = ("low", "high", "log", "step")
# Significant digits of numbers in ranges: more have no meaning, and would be unpleasant in a recipe.
DIGITS = 3
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
    """

    name: str
    place: str
    low: float
    high: float
    log: bool = False
    step: float | None = None

    @property
    def distribution(self) -> BaseDistribution:
        """What Optuna draws from."""
        from optuna.distributions import FloatDistribution, IntDistribution

        if self.step is not None and all(isinstance(x, int) for x in (self.low, self.high, self.step)):
            return IntDistribution(int(self.low), int(self.high), step=int(self.step))
        return FloatDistribution(self.low, self.high, log=self.log, step=self.step)

    def settings(self, value: Any) -> dict[str, Any]:
        """The setting of a value, rounded.

        Example:
            >>> Range("optim.lr", "plan.yaml", 0.001, 0.1, log=True).settings(0.012345678)
            {'optim.lr': 0.0123}
        """
        return {self.name: value if isinstance(value, int) else float(f"{value:.{DIGITS}g}")}

    def samples(self) -> list[Any]:
        """Values whose settings are checked before the search."""
        return [self.low, self.high]

    def value_of(self, given: Mapping[str, Any]) -> Any:
        """The value that given settings have here; None if it is outside."""
        value = given.get(self.name)
        if value is None or not _is_number(value) or not self.low <= value <= self.high:
            return None
        steps = 0.0 if self.step is None else (value - self.low) / self.step
        return value if steps == round(steps) else None


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
    low, high, step = given.get("low"), given.get("high"), given.get("step")
    numbers = all(_is_number(x) for x in (low, high)) and (step is None or _is_number(step))
    log = given.get("log", False)
    sound = not unknown and numbers and isinstance(log, bool) and low < high  # type: ignore[operator]
    if sound and (step is None or step > 0) and not (log and (low <= 0 or step is not None)):  # type: ignore[operator]
        return Range(name, place, low, high, log, step)  # type: ignore[arg-type]
    raise ConfigError(
        f"A range must have low < high, and low > 0 and no step with log: true ({place})",
        got=f"{name}: {dict(given)!r}"[:SHOWN],
        fix="write `{low: 0.01, high: 0.3, log: true}` or `{low: 1, high: 8, step: 1}`.",
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _text(value: Any) -> str:
    """A value as the name of a choice: as JSON, without quotes around text."""
    return value if isinstance(value, str) else json.dumps(value)
