"""Check all runs of a plan before the first one starts: models, data, budgets, and what earlier runs read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from richkd.compare.plan import Plan
from richkd.compare.problems import RunProblems
from richkd.compare.runs import PlannedRun, budget_of, by_cell
from richkd.config.schema import Config
from richkd.core.device import pick_device
from richkd.core.errors import CheckpointError, ConfigError, DataError, RichKDError
from richkd.data.sources import open_data
from richkd.data.split import Data
from richkd.pipeline.assemble import assemble
from richkd.pipeline.run_data import order_of
from richkd.training.batch_parts import refuse_small_parts
from richkd.training.inputs import changed_data, read_inputs
from richkd.training.optimizer import build_optimizer
from richkd.training.run_folder import RunFolder
from richkd.training.same_settings import refuse_other_settings
from richkd.training.trainer import Task

Log = Callable[[str], None]

EVALUATED = "test"


@dataclass(frozen=True)
class Checked:
    """What the checks of a plan found.

    Attributes:
        budgets: the budget of each run, by its name.
        finished: names of the runs that are finished.
    """

    budgets: dict[str, str]
    finished: frozenset[str]


def check_runs(plan: Plan, runs: list[PlannedRun], log: Log, evaluated: str = EVALUATED) -> Checked:
    """Check all runs, as ``richkd check`` does before it decodes images.

    Data are opened once. Models are opened once for each method, pair and data, unless runs of theirs have
    begun. Runs that have begun must have the settings, files and images of the plan.

    Args:
        plan: the plan.
        runs: its runs.
        log: where to say how many there are.
        evaluated: the split that the runs are compared on.

    Raises:
        RichKDError: everything that is wrong, together.
    """
    problems, opened = RunProblems(), OpenedData(evaluated)
    budgets: dict[str, str] = {}
    for run in runs:
        data = problems.attempt(run.label, opened.of, run.config)
        if data is not None:
            order = problems.attempt(run.label, order_of, run.config, data)
            if order is not None:
                budgets[run.name] = budget_of(run.config, order.images_of_epoch)
    if len(budgets) == len(runs):
        for _, members in by_cell(runs):
            problems.attempt("", _refuse_other_tests, members, opened)
            if not plan.allow_unequal_budgets:
                problems.attempt("", _refuse_unequal, members, budgets)
    begun = [run for run in runs if RunFolder(run.config.out).entries()]
    finished = {run.name for run in begun if problems.attempt(run.label, is_finished, run.config)}
    for run in begun:
        if run.name in budgets:
            problems.attempt(run.label, refuse_changed, run, opened)
    known = {_models_of(run) for run in begun}
    for run in runs:
        if _models_of(run) not in known and run.name in budgets:
            known.add(_models_of(run))
            problems.attempt(run.label, _check_models, run.config)
    problems.refuse_all()
    log(f"checked: {len(runs)} runs, of which {len(finished)} are finished")
    return Checked(budgets, frozenset(finished))


def is_finished(config: Config) -> bool:
    """Whether the run of these settings is finished.

    Raises:
        CheckpointError: its ``summary.json`` is damaged.
    """
    summary = RunFolder(config.out).summary()
    return summary is not None and summary["epochs"] == config.train.epochs


class OpenedData:
    """Data sets that were opened, and the records of their images.

    Args:
        evaluated: the split that runs are compared on, which the data must have.
    """

    def __init__(self, evaluated: str) -> None:
        self.evaluated = evaluated
        self._data: dict[str, Data | RichKDError] = {}
        self._inputs: dict[str, dict[str, Any]] = {}

    def of(self, config: Config) -> Data:
        """The data of a run."""
        key = self._key(config)
        if key not in self._data:
            try:
                self._data[key] = _with_splits(open_data(config.data, config.train.seed), self.evaluated)
            except RichKDError as error:
                # The hub, for example, is asked once and not for every run.
                self._data[key] = error
        data = self._data[key]
        if isinstance(data, RichKDError):
            raise data
        return data

    def inputs(self, config: Config, recorded: dict[str, Any]) -> dict[str, Any]:
        """The record of the images, made in the way of another record."""
        key = f"{recorded.get('hashed')} {self._key(config)}"
        if key not in self._inputs:
            self._inputs[key] = read_inputs(config, self.of(config), recorded)
        return self._inputs[key]

    def _key(self, config: Config) -> str:
        return f"{config.train.seed} {config.data.model_dump_json(exclude={'in_memory_gb'})}"


def _with_splits(data: Data, evaluated: str) -> Data:
    for name in ("train", evaluated):
        if name not in data.splits:
            raise DataError(
                f"A comparison needs a split '{name}' of {data.path}",
                got=f"splits {', '.join(data.splits)}",
                fix=f"check data.path, and give data.{evaluated}_fraction if the data have no such split.",
            )
    return data


def _refuse_other_tests(members: list[PlannedRun], opened: OpenedData) -> None:
    """Refuse methods that are evaluated on other images than the first one."""
    first = members[0]
    expected = _evaluated_of(opened, first.config)
    for run in members:
        if _evaluated_of(opened, run.config) != expected:
            raise ConfigError(
                f"All methods of a comparison must be evaluated on the same images ({run.cell.title})",
                got=f"another {opened.evaluated} split for {run.method} than for {first.method}",
                fix="give settings that divide the data in base or in data.",
            )


def _evaluated_of(opened: OpenedData, config: Config) -> tuple[Any, ...]:
    data = opened.of(config)
    split = data.splits[opened.evaluated]
    return (data.class_names, split.keys(), split.labels_N.tolist())


def _refuse_unequal(members: list[PlannedRun], budgets: dict[str, str]) -> None:
    by_budget: dict[str, list[str]] = {}
    for run in members:
        by_budget.setdefault(budgets[run.name], []).append(run.method)
    if len(by_budget) > 1:
        named = "; ".join(f"{budget}: {', '.join(dict.fromkeys(m))}" for budget, m in by_budget.items())
        raise ConfigError(
            f"All methods of a comparison must have the same budget ({members[0].cell.title})",
            got=named,
            fix="give equal budgets, or write allow_unequal_budgets: true.",
        )


def refuse_changed(run: PlannedRun, opened: OpenedData) -> None:
    """Refuse a run that began with other settings, files or images; do nothing if it did not begin.

    Raises:
        RichKDError: what differs.
    """
    folder = RunFolder(run.config.out)
    if not (folder.path / "config.yaml").exists():
        return
    refuse_other_settings(folder.path, run.config, same_length=True)
    recorded = folder.inputs()
    data = opened.of(run.config)
    changed = changed_data(data, recorded, opened.inputs(run.config, recorded))
    if changed:
        by = "" if changed.hashed else " (compared by size and modification time, because they are many)"
        raise CheckpointError(
            f"All runs of a comparison must have the same images ({data.path}, run {run.name})",
            got="; ".join(changed.differences) + by,
            fix="restore the images, or give another out: for a comparison on the new ones.",
        )


def _models_of(run: PlannedRun) -> tuple[str, str, str]:
    return run.control_of or run.method, run.cell.pair, run.cell.data


def _check_models(config: Config) -> None:
    """Open the teachers and the student of a run, and build its loss terms and its optimizer."""
    # Images are read where they are needed, so that a check does not decode all of them.
    data = config.data.model_copy(update={"in_memory_gb": 0.0})
    device = pick_device(config.train.device)
    parts = assemble(config.model_copy(update={"data": data}), device)
    refuse_small_parts(parts)
    build_optimizer(Task(parts), config.optim)
    parts.flush_caches()
    if device.type == "cuda":
        del parts
        torch.cuda.empty_cache()  # for the processes of the runs
