"""The runs of a plan: every method, with its controls, for every pair, data, budget and seed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain, product
from pathlib import Path

from richkd.compare.first import (
    ByName,
    FirstRun,
    first_of,
    first_runs,
    models_of,
    refuse_never_needed,
    with_first_models,
)
from richkd.compare.layers import Given, Layer, Layers
from richkd.compare.merging import is_fused, is_in, merge, refuse_never_read
from richkd.compare.named_runs import runs_named_in
from richkd.compare.plan import Source
from richkd.compare.problems import RunProblems
from richkd.config.schema import Config
from richkd.core.errors import ConfigError, nearest
from richkd.core.visible import counted

RUNS = "runs"


@dataclass(frozen=True)
class Cell:
    """What a comparison has in common: one student with its teachers, one data set, one budget.

    Attributes:
        pair: name of the pair; empty if the plan has no pairs.
        data: name of the data; empty if the plan has none.
        epochs: number of epochs.
    """

    pair: str
    data: str
    epochs: int

    @property
    def title(self) -> str:
        """The cell in words.

        Example:
            >>> Cell("small", "", 30).title
            'small, 30 epochs'
        """
        return ", ".join(part for part in (self.pair, self.data, counted(self.epochs, "epoch")) if part)


@dataclass(frozen=True)
class PlannedRun:
    """A run of a plan.

    Attributes:
        name: its name, and that of its folder.
        method: name of the method; for a control, with the control.
        control_of: name of the method that it is a control of; None if it is none.
        cell: what it is compared in.
        seed: the seed of training.
        config: its settings.
        needs: the first runs whose models it has.
    """

    name: str
    method: str
    control_of: str | None
    cell: Cell
    seed: int
    config: Config
    needs: tuple[FirstRun, ...] = ()

    @property
    def label(self) -> str:
        """The method with pair and data, where there are several."""
        return ", ".join(part for part in (self.method, self.cell.pair, self.cell.data) if part)


AnyRun = PlannedRun | FirstRun


def planned_runs(source: Source, layers: Layers, out: Path) -> list[PlannedRun]:
    """All runs of a plan, those of a cell one after another, and within a cell by seed.

    Args:
        source: the plan.
        layers: its settings.
        out: folder of the comparison.

    Raises:
        RichKDError: settings that cannot be combined, settings that no run reads, methods with unequal
            budgets, and names that occur twice; all of them are listed.
    """
    problems = RunProblems()
    read: set[int] = set()
    first = {data: first_runs(source, layers, data, out, problems, read) for data in layers.data}
    runs: list[PlannedRun] = []
    for pair, data, epochs in product(layers.pairs, layers.data, source.plan.budgets or (None,)):
        shared = (layers.base, layers.data[data], layers.pairs[pair])
        models = models_of(layers, data, out)
        configs: dict[str, Config] = {}
        for name, method in layers.methods.items():
            label = ", ".join(part for part in (name, pair, data) if part)
            merged = problems.attempt(label, _merged, source, epochs, (*shared, method), name, models)
            if merged is not None:
                configs[name], kept = merged
                read |= {id(g) for layer in shared for dotted, g in layer.items() if is_in(dotted, kept)}
        for name, config in configs.items():
            cell = Cell(pair, data, epochs or next(iter(configs.values())).train.epochs)
            needs = _needs(config, models, first[data])
            runs += _runs_of_method(source, out, cell, name, config, needs)
    if not problems.errors:
        shared_parts = (layers.base, *layers.data.values(), *layers.pairs.values())
        problems.attempt("", refuse_never_read, shared_parts, read)
        problems.attempt("", refuse_never_needed, source, [one for run in runs for one in run.needs])
        problems.attempt("", _refuse_no_baseline, source.plan.reference, runs)
    problems.attempt("", _refuse_equal_names, runs)
    problems.attempt(
        "", _refuse_equal_folders, [one for named in first.values() for one in chain(*named.values())]
    )
    problems.refuse_all()
    order = {name: place for place, name in enumerate(dict.fromkeys(run.method for run in runs))}
    cells = {cell: place for place, cell in enumerate(dict.fromkeys(run.cell for run in runs))}
    return sorted(runs, key=lambda run: (cells[run.cell], run.seed, order[run.method]))


def _refuse_no_baseline(reference: str, runs: Sequence[PlannedRun]) -> None:
    """Refuse a control of a method that has none as the baseline."""
    known = dict.fromkeys(run.method for run in runs)
    if reference not in known:
        raise ConfigError(
            "The baseline must be one of the methods or of their controls",
            got=f"{reference!r}, but controls belong to methods that fuse a vision teacher with a CLIP",
            fix=nearest(reference, known),
        )


def first_runs_of(runs: Iterable[PlannedRun]) -> list[FirstRun]:
    """The runs that come before these, each after those that it needs itself."""
    return first_of(one for run in runs for one in run.needs)


def budget_of(config: Config, images: int) -> str:
    """The budget of a run in words; methods of a comparison must have equal ones.

    Args:
        images: number of training images of an epoch.
    """
    train = config.train
    return (
        f"{counted(train.epochs, 'epoch')} of {counted(images, 'image')} in batches of {train.batch_size:,}"
    )


def _merged(
    source: Source, epochs: int | None, layers: tuple[Layer, ...], method: str, models: Mapping[str, str]
) -> tuple[Config, Layer]:
    """The settings of all seeds, with the models of first runs, and where they were given."""
    layers = tuple(with_first_models(layer, models) for layer in layers)
    from_plan = plan_layer(source, epochs)
    # The method is the last one, so it may set a number of epochs of its own.
    return merge((*layers[:-1], from_plan, layers[-1]), source.place("methods", method))


def plan_layer(source: Source, epochs: int | None) -> Layer:
    """The settings that the plan itself gives to its runs: the cache and, if it has one, the length."""
    layer: Layer = {}
    if epochs is not None:
        layer["train.epochs"] = Given(epochs, source.place("budgets"), "plan")
    if source.plan.cache is not None:
        layer["cache.dir"] = Given(str(source.plan.cache), source.place("cache"), "plan")
    return layer


def _needs_controls(config: Config) -> bool:
    return is_fused(config) and config.fusion.control is None


def _needs(config: Config, models: Mapping[str, str], first: ByName) -> tuple[FirstRun, ...]:
    # The settings of a first run that is missing here are wrong, which is an error already.
    return tuple(run for name in runs_named_in(config, models) for run in first.get(name, ()))


def _runs_of_method(
    source: Source, out: Path, cell: Cell, method: str, config: Config, needs: tuple[FirstRun, ...]
) -> Iterator[PlannedRun]:
    """The runs of a method and of its controls in a cell, with all seeds."""
    for seed in source.plan.seeds:
        yield _run(out, PlannedRun("", method, None, cell, seed, config, needs))
        for control in source.plan.added_controls if _needs_controls(config) else ():
            fusion = config.fusion.model_copy(update={"control": control})
            controlled = config.model_copy(update={"fusion": fusion})
            yield _run(out, PlannedRun("", f"{method} {control}", method, cell, seed, controlled, needs))


def _run(out: Path, run: PlannedRun) -> PlannedRun:
    """The run with its name, its seed and its folder."""
    cell = run.cell
    parts = [run.method.replace(" ", "-"), cell.pair, cell.data, f"e{cell.epochs}", f"s{run.seed}"]
    name = "-".join(part for part in parts if part)
    train = run.config.train.model_copy(update={"seed": run.seed})
    return replace(
        run, name=name, config=run.config.model_copy(update={"train": train, "out": out / RUNS / name})
    )


def _refuse_equal_names(runs: list[PlannedRun]) -> None:
    # Some file systems do not distinguish letter cases.
    counts = Counter(run.name.casefold() for run in runs)
    twice = [run for run in runs if counts[run.name.casefold()] > 1]
    if twice:
        first, second = [run for run in twice if run.name.casefold() == twice[0].name.casefold()][:2]
        raise ConfigError(
            "No two runs may have the same name",
            got=f"'{first.name}' of method {first.method} ({first.cell.title}) and "
            f"'{second.name}' of method {second.method} ({second.cell.title})",
            fix="rename a method, a pair or a data set, or leave out the controls (controls: false).",
        )


def _refuse_equal_folders(first: list[FirstRun]) -> None:
    named: dict[str, FirstRun] = {}
    for run in first:
        other = named.setdefault(run.name.casefold(), run)
        if (other.first, other.data) != (run.first, run.data):
            raise ConfigError(
                "No two first runs may have the same folder",
                got=f"'{other.name}' of {other.label} and '{run.name}' of {run.label}",
                fix="rename one of them, or a data set.",
            )


def by_cell(runs: list[PlannedRun]) -> Iterator[tuple[Cell, list[PlannedRun]]]:
    """The runs of each cell, in order."""
    for cell in dict.fromkeys(run.cell for run in runs):
        yield cell, [run for run in runs if run.cell == cell]
