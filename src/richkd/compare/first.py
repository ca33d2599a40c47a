"""Runs that come before all others, such as those of teachers; other runs name them as ``run:NAME``."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from richkd.compare.layers import Given, Layer, Layers
from richkd.compare.merging import is_in, merge
from richkd.compare.named_runs import RUN, runs_named_in, with_models
from richkd.compare.plan import Source
from richkd.compare.problems import RunProblems
from richkd.config.schema import Config
from richkd.core.errors import ConfigError
from richkd.training.run import of_fold

FOLDER = "first"

T = TypeVar("T")


@dataclass(frozen=True)
class FirstRun:
    """A run that comes first.

    Attributes:
        name: its name among all runs, and its folder.
        first: its name in the plan.
        data: name of the data; empty if the plan has none.
        config: its settings.
        needs: the runs whose models it has.
        fold: the fold of out-of-fold teachers; None for a single model.
    """

    name: str
    first: str
    data: str
    config: Config
    needs: tuple[FirstRun, ...] = ()
    fold: int | None = None

    @property
    def model(self) -> str:
        """The name of the model that it makes, alone or with the other folds."""
        folder = self.config.out
        return f"local-dir:{folder / 'student'}" if self.fold is None else f"folds:{folder.parent}"

    @property
    def label(self) -> str:
        """The run with its data, where there are several."""
        return ", ".join(part for part in (f"{RUN}:{self.first}", self.data) if part)


@dataclass(frozen=True)
class _Merged:
    """The settings of a first run before its folds, where they were given, and what it names."""

    config: Config
    kept: Layer
    names: list[str]


# The first runs for a data set, by name in the plan; the folds of one are several.
ByName = dict[str, tuple[FirstRun, ...]]


def first_runs(
    source: Source, layers: Layers, data: str, out: Path, problems: RunProblems, read: set[int]
) -> ByName:
    """The first runs for a data set.

    Args:
        source: the plan.
        layers: its settings.
        data: name of the data set.
        out: folder of the comparison.
        problems: receives errors.
        read: receives the identities of shared settings that a first run has.
    """
    models, merged = models_of(layers, data, out), dict[str, _Merged]()
    for name in layers.first:
        label = ", ".join(part for part in (f"{RUN}:{name}", data) if part)
        one = problems.attempt(label, _merge, source, layers, name, data, models)
        if one is not None:
            merged[name] = one
            shared = (layers.base, layers.data[data])
            read |= {
                id(given) for layer in shared for dotted, given in layer.items() if is_in(dotted, one.kept)
            }
    runs: ByName = {}
    for name in problems.attempt("", _in_order, merged, source) or ():
        needs = tuple(run for needed in merged[name].names for run in runs.get(needed, ()))
        runs[name] = _runs(name, data, merged[name].config, out, needs, layers.folds.get(name))
    return runs


def models_of(layers: Layers, data: str, out: Path) -> dict[str, str]:
    """The model that each first run makes, by its name: a student, or the teachers of folds."""
    return {
        name: f"folds:{_folder(name, data, out)}"
        if name in layers.folds
        else f"local-dir:{_folder(name, data, out) / 'student'}"
        for name in layers.first
    }


def with_first_models(layer: Layer, models: Mapping[str, str]) -> Layer:
    """The settings of a layer with these models in place of ``run:NAME``."""
    values = {dotted: with_models(dotted, given.value, models) for dotted, given in layer.items()}
    return {
        dotted: given if values[dotted] == given.value else replace(given, value=values[dotted])
        for dotted, given in layer.items()
    }


def first_of(runs: Iterable[FirstRun]) -> list[FirstRun]:
    """These runs and all that they need, each once and after those that it needs.

    Example:
        >>> config = Config(data={"path": "photos"}, student={"name": "resnet18"})
        >>> large = FirstRun("first/large", "large", "", config)
        >>> small = FirstRun("first/small", "small", "", config, needs=(large,))
        >>> [run.first for run in first_of([small, large])]
        ['large', 'small']
    """
    by_name: dict[str, FirstRun] = {}
    for run in runs:
        for one in (*first_of(run.needs), run):
            by_name.setdefault(one.name, one)
    return list(by_name.values())


def stages_of(first: Sequence[FirstRun], others: Sequence[T]) -> list[list[FirstRun] | list[T]]:
    """The first runs in groups, each of which needs only those before it; then all others.

    Example:
        >>> config = Config(data={"path": "photos"}, student={"name": "resnet18"})
        >>> large = FirstRun("first/large", "large", "", config)
        >>> small = FirstRun("first/small", "small", "", config, needs=(large,))
        >>> [len(stage) for stage in stages_of([large, small], ["kd", "ce", "dkd"])]
        [1, 1, 3]
    """
    stages: list[list[FirstRun] | list[T]] = []
    done: set[str] = set()
    while left := [run for run in first if run.name not in done]:
        ready = [run for run in left if all(one.name in done for one in run.needs)]
        stages.append(ready)
        done |= {run.name for run in ready}
    return [*stages, list(others)]


def refuse_never_needed(source: Source, needed: Iterable[FirstRun]) -> None:
    """Refuse a first run whose model no other run has.

    Raises:
        ConfigError: names the first such run, with its line.
    """
    names = {run.first for run in first_of(needed)}
    for name in source.plan.first:
        if name not in names:
            raise ConfigError(
                f"A first run must be a teacher or a student of another run ({source.place(FOLDER, name)})",
                got=f"'{name}', which no run of the plan has",
                fix=f"write {RUN}:{name} as the name of a teacher, or remove the run.",
            )


def _folder(name: str, data: str, out: Path) -> Path:
    return out / FOLDER / "-".join(part for part in (name, data) if part)


def _merge(source: Source, layers: Layers, name: str, data: str, models: Mapping[str, str]) -> _Merged:
    place = source.place(FOLDER, name)
    from_plan: Layer = {"train.seed": Given(source.plan.seeds[0], source.place("seeds"), "plan")}
    if source.plan.cache is not None:
        from_plan["cache.dir"] = Given(str(source.plan.cache), source.place("cache"), "plan")
    parts = (from_plan, layers.base, layers.data[data], layers.first[name])
    config, kept = merge((with_first_models(layer, models) for layer in parts), place)
    if "train.epochs" not in kept:
        raise ConfigError(
            f"A first run must say its number of epochs ({place})",
            got="no train.epochs",
            fix="add `train.epochs: 30`; budgets are those of methods.",
        )
    return _Merged(config, kept, runs_named_in(config, models))


def _in_order(merged: Mapping[str, _Merged], source: Source) -> list[str]:
    """The names, each after those that it needs.

    Raises:
        ConfigError: some need each other.
    """
    order: list[str] = []
    while len(order) < len(merged):
        left = [name for name in merged if name not in order]
        ready = [name for name in left if not {n for n in merged[name].names if n in merged} - set(order)]
        if not ready:
            circle = _circle(left, merged)
            raise ConfigError(
                f"A first run must not need itself, nor through others ({source.place(FOLDER, circle[0])})",
                got=" needs ".join((*circle, circle[0])),
                fix=f"give one of them another teacher than {RUN}:NAME, or train it from labels.",
            )
        order += ready
    return order


def _circle(left: Sequence[str], merged: Mapping[str, _Merged]) -> list[str]:
    """Names of which each needs the next one, and the last one the first."""
    path = [left[0]]
    while True:
        following = next(name for name in merged[path[-1]].names if name in left)
        if following in path:
            return path[path.index(following) :]
        path.append(following)


def _runs(
    name: str, data: str, config: Config, out: Path, needs: tuple[FirstRun, ...], folds: int | None
) -> tuple[FirstRun, ...]:
    folder = _folder(name, data, out)
    config, place = config.model_copy(update={"out": folder}), f"{FOLDER}/{folder.name}"
    if folds is None:
        return (FirstRun(place, name, data, config, needs),)
    return tuple(
        FirstRun(f"{place}/fold-{fold}", name, data, of_fold(config, fold, folds), needs, fold)
        for fold in range(folds)
    )
