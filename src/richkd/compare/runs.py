"""The runs of a plan: every method, with its controls, for every pair, data, budget and seed."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from richkd.compare.layers import Given, Layer, Layers
from richkd.compare.merging import is_fused, merge, refuse_never_read
from richkd.compare.plan import Source
from richkd.compare.problems import RunProblems
from richkd.config.schema import Config
from richkd.core.errors import ConfigError

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
        return ", ".join(part for part in (self.pair, self.data, f"{self.epochs:,} epochs") if part)


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
    """

    name: str
    method: str
    control_of: str | None
    cell: Cell
    seed: int
    config: Config

    @property
    def label(self) -> str:
        """The method with pair and data, where there are several."""
        return ", ".join(part for part in (self.method, self.cell.pair, self.cell.data) if part)


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
    runs: list[PlannedRun] = []
    for pair, data, epochs in itertools.product(layers.pairs, layers.data, _budgets(source, layers)):
        cell = Cell(pair, data, epochs)
        shared = (layers.base, layers.data[data], layers.pairs[pair])
        for name, method in layers.methods.items():
            label = ", ".join(part for part in (name, pair, data) if part)
            merged = problems.attempt(label, _merged, source, cell, (*shared, method), name)
            if merged is None:
                continue
            config, kept = merged
            read |= {id(given) for layer in shared for dotted, given in layer.items() if _is_in(dotted, kept)}
            for seed in source.plan.seeds:
                runs.append(_run(source, out, cell, name, None, seed, config))
                for control in source.plan.added_controls if _needs_controls(config) else ():
                    fusion = config.fusion.model_copy(update={"control": control})
                    controlled = config.model_copy(update={"fusion": fusion})
                    runs.append(_run(source, out, cell, f"{name} {control}", name, seed, controlled))
    if not problems.errors:
        shared_parts = (layers.base, *layers.data.values(), *layers.pairs.values())
        problems.attempt("", refuse_never_read, shared_parts, read)
    problems.attempt("", _refuse_equal_names, runs)
    problems.refuse_all()
    order = {name: place for place, name in enumerate(dict.fromkeys(run.method for run in runs))}
    cells = {cell: place for place, cell in enumerate(dict.fromkeys(run.cell for run in runs))}
    return sorted(runs, key=lambda run: (cells[run.cell], run.seed, order[run.method]))


def budget_of(config: Config, images: int) -> str:
    """The budget of a run in words; methods of a comparison must have equal ones.

    Args:
        images: number of training images of an epoch.
    """
    train = config.train
    return f"{train.epochs:,} epochs of {images:,} images in batches of {train.batch_size:,}"


def _budgets(source: Source, layers: Layers) -> tuple[int, ...]:
    given = layers.base.get("train.epochs")
    if source.plan.budgets:
        return source.plan.budgets
    default = Config.model_fields["train"].get_default(call_default_factory=True).epochs
    return (given.value if given is not None and isinstance(given.value, int) else default,)


def _merged(source: Source, cell: Cell, layers: tuple[Layer, ...], method: str) -> tuple[Config, Layer]:
    """The settings of all seeds, and where they were given."""
    own = own_layer(source, cell.epochs if source.plan.budgets else None)
    # The method is the last one, so it may set a number of epochs of its own.
    return merge((*layers[:-1], own, layers[-1]), source.place("methods", method))


def own_layer(source: Source, epochs: int | None) -> Layer:
    """The settings that the plan itself gives to its runs: the cache and, if it has one, the length."""
    own: Layer = {}
    if epochs is not None:
        own["train.epochs"] = Given(epochs, source.place("budgets"), "plan")
    if source.plan.cache is not None:
        own["cache.dir"] = Given(str(source.plan.cache), source.place("cache"), "plan")
    return own


def _is_in(dotted: str, kept: Layer) -> bool:
    """Whether a setting, or the section that replaced it, is one of those of a run."""
    return any(name == dotted or dotted.startswith(f"{name}.") for name in kept)


def _needs_controls(config: Config) -> bool:
    return is_fused(config) and config.fusion.control is None


def _run(
    source: Source, out: Path, cell: Cell, method: str, control_of: str | None, seed: int, config: Config
) -> PlannedRun:
    parts = [method.replace(" ", "-"), cell.pair, cell.data, f"e{cell.epochs}", f"s{seed}"]
    name = "-".join(part for part in parts if part)
    train = config.train.model_copy(update={"seed": seed})
    own = config.model_copy(update={"train": train, "out": out / RUNS / name})
    return PlannedRun(name, method, control_of, cell, seed, own)


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


def by_cell(runs: list[PlannedRun]) -> Iterator[tuple[Cell, list[PlannedRun]]]:
    """The runs of each cell, in order."""
    for cell in dict.fromkeys(run.cell for run in runs):
        yield cell, [run for run in runs if run.cell == cell]
