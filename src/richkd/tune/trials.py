"""Trials as runs: the settings of a method at a point of the space, and which entries a method reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from richkd.compare.layers import Layer, Layers
from richkd.compare.merging import is_in, merge, refuse_never_read
from richkd.compare.problems import RunProblems
from richkd.compare.runs import RUNS, Cell, PlannedRun, plan_layer
from richkd.config.model_name import parse_model_name
from richkd.config.schema import Config
from richkd.core.errors import ConfigError
from richkd.fusion.mixings import ALPHA
from richkd.fusion.presets import PAPER_ALPHA, scale_and_mixing
from richkd.methods.objective import read_objective
from richkd.tune.defaults import default_space
from richkd.tune.plan import TuneSource
from richkd.tune.space import Choices, Entry, Point, layer_of, read_space
from richkd.tune.study import TrialRecord

LENGTH = "train.epochs"


@dataclass(frozen=True)
class SearchedMethod:
    """A method of a search.

    Attributes:
        name: its name.
        entries: the entries of the space that it reads.
        first: the point of its own settings, as far as the space has it.
        config: its own settings.
        outside: entries of the space that do not have the method's own value; it is drawn in the first trial.
    """

    name: str
    entries: tuple[Entry, ...]
    first: dict[str, Any]
    config: Config
    outside: tuple[str, ...] = ()

    @property
    def first_trial(self) -> str:
        """What the first trial is, in words.

        Example:
            >>> base = {"data": {"path": "."}, "student": {"name": "resnet18"}}
            >>> SearchedMethod("kd", (), {}, Config.model_validate(base), ("optim.lr",)).first_trial
            'the settings of the plan, but a drawn optim.lr, because the space does not have its own'
        """
        if not self.outside:
            return "the settings of the plan"
        names = ", ".join(self.outside)
        return f"the settings of the plan, but a drawn {names}, because the space does not have its own"


class Trials:
    """The runs of a search.

    Args:
        source: the plan.
        layers: its settings.
        out: folder of the search.
    """

    def __init__(self, source: TuneSource, layers: Layers, out: Path) -> None:
        self.source = source
        self.layers = layers
        self.out = out
        # Identities of the settings of ``base`` that some method reads at some point.
        self._read: set[int] = set()
        # All pairs of values are merged to find what a method reads.
        self._configs: dict[tuple[str, frozenset[tuple[str, Any]]], Config] = {}

    def methods(self) -> list[SearchedMethod]:
        """All methods, with what is searched for each.

        Raises:
            RichKDError: settings that cannot be combined, numbers of epochs of single methods, entries of the
                space that no method reads, and methods that read none; all of them are listed.
        """
        space, source = self.source.plan.space, self.source.source
        given = None if space is None else read_space(space, lambda name: source.place("space", name))
        problems = RunProblems()
        for layer in self.layers.methods.values():
            problems.attempt("", _refuse_length, layer)
        searched = [problems.attempt(name, self._method, name, given) for name in self.layers.methods]
        problems.refuse_all()
        methods = [method for method in searched if method is not None]
        read = {entry.name for method in methods for entry in method.entries}
        for entry in given or ():
            if entry.name not in read:
                problems.attempt("", _refuse_unread, entry)
        for method in methods:
            problems.attempt(method.name, _refuse_without_space, method)
        problems.attempt("", refuse_never_read, (self.layers.base,), self._read)
        problems.attempt("", _refuse_equal_folders, [method.name for method in methods])
        problems.refuse_all()
        return methods

    def config(self, method: str, entries: Sequence[Entry], point: Point) -> Config:
        """The settings of a method at a point, with the number of epochs of the plan."""
        key = method, frozenset(point.items())
        if key not in self._configs:
            self._configs[key] = self._merged(method, entries, point)[0]
        return self._configs[key]

    def run(self, method: SearchedMethod, record: TrialRecord, epochs: int) -> PlannedRun:
        """The run of a trial with a number of epochs; trials with equal settings share their runs."""
        config = self.config(method.name, method.entries, record.point)
        return self.of_length(config, method.name, f"t{record.first:03}", epochs)

    def of_length(self, config: Config, method: str, trial: str, epochs: int) -> PlannedRun:
        """A run of some settings with another number of epochs."""
        name = f"{folder_name(method)}-{trial}-e{epochs}"
        train = config.train.model_copy(update={"epochs": epochs})
        settings = config.model_copy(update={"train": train, "out": self.out / RUNS / name})
        return PlannedRun(name, method, None, Cell("", "", epochs), self.source.plan.seed, settings)

    def _method(self, name: str, given: list[Entry] | None) -> SearchedMethod:
        config, _ = self._merged(name, (), {})
        entries = given
        if entries is None:
            entries = read_space(default_space(config), lambda _: self.source.source.place("methods", name))
        read = tuple(entry for entry in entries if self._reads(name, entry, entries))
        values = {entry.name: self._current_value(name, entry, entries, config) for entry in read}
        first = {entry: value for entry, value in values.items() if value is not None}
        return SearchedMethod(name, read, first, config, self._outside(name, read, first))

    def _current_value(self, method: str, entry: Entry, entries: Sequence[Entry], config: Config) -> Any:
        """The value of an entry that the settings of the method have already; None if it has none."""
        value = entry.value_of(settings_of(config))
        if value is not None or not isinstance(entry, Choices):
            return value
        # A plan may write a value otherwise than validated settings have it: 1e-3 is text in YAML, and a
        # teacher needs no more than its name.
        samples = entry.samples()
        same = [v for v in samples if _are_equal(self.config(method, entries, {entry.name: v}), config)]
        return same[0] if 0 < len(same) < len(samples) else None

    def _outside(self, method: str, entries: Sequence[Entry], first: Point) -> tuple[str, ...]:
        """The entries that must be drawn in the first trial, and make a difference there."""
        config = self.config(method, entries, first)
        return tuple(
            entry.name
            for entry in entries
            if entry.name not in first
            and any(self.config(method, entries, {**first, entry.name: v}) != config for v in entry.samples())
        )

    def _reads(self, method: str, entry: Entry, entries: Sequence[Entry]) -> bool:
        """Whether the values of an entry make a difference, alone or with a value of another entry."""
        others: list[dict[str, Any]] = [{}]
        others += [{other.name: v} for other in entries if other is not entry for v in other.samples()]
        read = False
        for other in others:
            points = [other | {entry.name: value} for value in entry.samples()]
            configs = [self.config(method, entries, point) for point in points]
            read |= any(config != configs[0] for config in configs)
        return read

    def _merged(self, method: str, entries: Sequence[Entry], point: Point) -> tuple[Config, Layer]:
        source, plan = self.source.source, self.source.plan
        from_plan = plan_layer(source, plan.epochs)
        searched = layer_of(list(entries), point)
        layers = (self.layers.base, from_plan, searched, self.layers.methods[method])
        config, kept = merge(layers, source.place("methods", method))
        train = config.train.model_copy(update={"seed": self.source.plan.seed})
        self._read |= {id(given) for dotted, given in self.layers.base.items() if is_in(dotted, kept)}
        return config.model_copy(update={"train": train}), kept


def folder_name(method: str) -> str:
    """A method's part of the names of its runs.

    Example:
        >>> folder_name("richkd shuffled")
        'richkd-shuffled'
    """
    return method.replace(" ", "-")


def settings_of(config: Config) -> dict[str, Any]:
    """The settings of a run by dotted name, those of its terms included.

    Example:
        >>> base = {"data": {"path": "."}, "student": {"name": "resnet18"}, "method": {"name": "kd"}}
        >>> settings = settings_of(Config.model_validate(base))
        >>> settings["optim.lr"], settings["objective.kd.temperature"]
        (0.05, 3.0)
        >>> folds = Config.model_validate(base | {"teachers": [{"name": "folds:runs/folds"}]})
        >>> settings_of(folds)["teachers.1.fold_share"]
        1.0
    """
    settings: dict[str, Any] = {}
    for name, value in config.model_dump(mode="json").items():
        settings[name] = value
        if isinstance(value, Mapping):
            settings |= {f"{name}.{leaf}": inner for leaf, inner in value.items()}
    if config.fusion.alpha is None and scale_and_mixing(config.fusion)[1] == ALPHA:
        settings["fusion.alpha"] = PAPER_ALPHA
    for place, teacher in enumerate(config.teachers, 1):
        if parse_model_name(teacher.name).kind == "folds":
            settings[f"teachers.{place}.fold_share"] = teacher.used_fold_share
    for spec in read_objective(config):
        terms = spec.config.model_dump(mode="json")
        settings |= {f"objective.{spec.label}.{leaf}": inner for leaf, inner in terms.items()}
    return settings


def _are_equal(one: Config, other: Config) -> bool:
    """Whether two runs have equal settings, those of terms by their values instead of as they are written."""
    first, second = (config.model_copy(update={"objective": {}}) for config in (one, other))
    return first == second and read_objective(one) == read_objective(other)


def _refuse_length(layer: Layer) -> None:
    if LENGTH in layer:
        given = layer[LENGTH]
        raise ConfigError(
            f"Setting '{LENGTH}' must not be given here ({given.place})",
            got=f"{LENGTH} {given.value}",
            fix="write the number as epochs: of the plan: all methods are tuned for the same one.",
        )


def _refuse_equal_folders(methods: Sequence[str]) -> None:
    # Some file systems do not distinguish letter cases.
    known: dict[str, str] = {}
    for method in methods:
        other = known.setdefault(folder_name(method).casefold(), method)
        if other != method:
            raise ConfigError(
                "No two runs may have the same name",
                got=f"methods '{other}' and '{method}'",
                fix="rename one of them.",
            )


def _refuse_unread(entry: Entry) -> None:
    raise ConfigError(
        f"An entry of the space must have an effect for some method ({entry.place})",
        got=f"{entry.name}, which no method reads, or which all methods give themselves",
        fix="remove it from the space, or from the settings of a method.",
    )


def _refuse_without_space(method: SearchedMethod) -> None:
    if not method.entries:
        raise ConfigError(
            "A method must read a setting of the space",
            got=f"'{method.name}', which reads none",
            fix="add an entry such as optim.lr to the space, or remove the method.",
        )
