"""Check all runs of a plan before the first one starts: models, data, budgets, and what earlier runs read."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch

from richkd.compare.first import FirstRun
from richkd.compare.opened import TEST_SPLIT, OpenedData
from richkd.compare.plan import Plan
from richkd.compare.problems import RunProblems
from richkd.compare.runs import AnyRun, PlannedRun, budget_of, by_cell, first_runs_of
from richkd.compare.stand_ins import StandIns, unfinished
from richkd.compare.trained_on import check_trained_on
from richkd.config.resumed import SETTINGS
from richkd.config.schema import Config
from richkd.core.device import pick_device
from richkd.core.errors import CheckpointError, ConfigError
from richkd.core.logs import Log
from richkd.core.precision import emulation_warning
from richkd.core.presence import exists
from richkd.core.visible import counted
from richkd.data.hierarchy import superclasses_of
from richkd.models.build import Network
from richkd.pipeline.assemble import assemble
from richkd.pipeline.run_data import order_of
from richkd.training.batch_parts import refuse_small_parts
from richkd.training.inputs import find_changed_data
from richkd.training.optimizer import build_optimizer
from richkd.training.run_folder import RunFolder
from richkd.training.same_settings import refuse_other_settings
from richkd.training.task import Task
from richkd.training.trackers import refuse_missing_trackers


@dataclass(frozen=True)
class Checked:
    """What the checks of a plan found.

    Attributes:
        budgets: the budget of each run, by its name.
        images: number of training images in an epoch of each run, by its name.
        finished: names of the runs that are finished.
        provisional: names of the runs whose teachers or student are still to be made by first runs.
        warnings: what makes the comparison doubtful.
    """

    budgets: dict[str, str]
    images: dict[str, int]
    finished: frozenset[str]
    provisional: frozenset[str] = frozenset()
    warnings: tuple[str, ...] = ()


def check_runs(plan: Plan, runs: list[PlannedRun], log: Log, evaluated: str = TEST_SPLIT) -> Checked:
    """Check all runs and the first runs that they need, as ``richkd check`` does before it decodes images.

    Data are opened once. Models are opened once for each method, pair and data, unless runs of theirs have
    begun. Where first runs are not finished, untrained networks take the places of their models. Runs that
    have begun must have the settings, files and images of the plan.

    Args:
        plan: the plan.
        runs: its runs.
        log: where to say how many there are.
        evaluated: the split that the runs are compared on.

    Raises:
        RichKDError: everything that is wrong, together.
    """
    problems, opened = RunProblems(), OpenedData(evaluated)
    first = first_runs_of(runs)
    every: list[AnyRun] = [*first, *runs]
    budgets: dict[str, str] = {}
    images: dict[str, int] = {}
    for run in every:
        problems.attempt(run.label, refuse_missing_trackers, run.config.train.trackers)
        data = problems.attempt(run.label, opened.of, run.config)
        if data is not None:
            order = problems.attempt(run.label, order_of, run.config, data)
            if order is not None:
                images[run.name] = order.images_of_epoch
                budgets[run.name] = budget_of(run.config, images[run.name])
            if plan.hierarchy is not None:
                problems.attempt("", superclasses_of, data.class_names, plan.hierarchy)
    warnings: list[str] = []
    if len(budgets) == len(every):
        for _, members in by_cell(runs):
            problems.attempt("", _refuse_other_tests, members, opened)
            if not plan.allow_unequal_budgets:
                problems.attempt("", _refuse_unequal, members, budgets)
        warnings = check_trained_on(runs, opened, problems)
    begun = [run for run in every if RunFolder(run.config.out).entries()]
    finished = {run.name for run in begun if problems.attempt(run.label, is_finished, run.config)}
    missing = unfinished(first, finished)
    provisional = {run.name for run in every if any(one.name in missing for one in run.needs)}
    for run in begun:
        if run.name in budgets:
            problems.attempt(run.label, refuse_changed, run, opened, run.name not in provisional)
    unchecked = _check_all_models(every, begun, missing, budgets, opened, problems)
    problems.refuse_all()
    log(f"checked: {counted(len(every), 'run')}, of which {len(finished)} are finished")
    _say_what_is_missing(first, missing, unchecked, log)
    for warning in _emulated(run for run in every if run.name not in finished):
        log(f"warning: {warning}")
    return Checked(budgets, images, frozenset(finished), frozenset(provisional), tuple(warnings))


def _emulated(runs: Iterable[AnyRun]) -> list[str]:
    """Warnings of precisions that the device only emulates, each once. They are about time, not figures."""
    settings = [run.config.train for run in runs]
    warnings = [
        emulation_warning(precision, pick_device(train.device))
        for train in settings
        for precision in (train.precision, train.teacher_precision)
    ]
    return list(dict.fromkeys(warning for warning in warnings if warning))


def refuse_other_teachers(runs: Iterable[AnyRun], checked: Checked) -> None:
    """Refuse runs that began with other models of first runs than there are now that these are finished.

    Raises:
        CheckpointError: names a file that differs.
    """
    for run in runs:
        if run.name in checked.provisional and exists(run.config.out / SETTINGS):
            refuse_other_settings(run.config.out, run.config, same_length=True)


def _check_all_models(
    runs: list[AnyRun],
    begun: list[AnyRun],
    missing: set[str],
    budgets: dict[str, str],
    opened: OpenedData,
    problems: RunProblems,
) -> list[str]:
    """Check the models of each method once; returns the labels of those that cannot be checked yet."""
    known = {_models_of(run) for run in begun if run.name not in missing}
    absent: dict[str, str] = {}
    with StandIns() as stand_ins:
        for run in runs:
            if _models_of(run) in known:
                continue
            known.add(_models_of(run))
            config = stand_ins.in_place(run.config) if run.name in budgets else None
            if config is None or any(one.name in absent for one in run.needs):
                absent[run.name] = run.label
                continue
            student = problems.attempt(run.label, _check_models, config)
            if student is None:
                absent[run.name] = run.label
            elif isinstance(run, FirstRun) and run.name in missing:
                problems.attempt(run.label, stand_ins.add, run, student, opened.of(run.config))
    return list(dict.fromkeys(absent.values()))


def _say_what_is_missing(first: list[FirstRun], missing: set[str], unchecked: list[str], log: Log) -> None:
    names = list(dict.fromkeys(run.label for run in first if run.name in missing))
    if names:
        log(
            f"first runs to do: {'; '.join(names)}. Runs that need their models were checked with untrained "
            "networks of the same architecture."
        )
    if unchecked:
        log(f"models that are checked when their runs start: {'; '.join(unchecked)}")


def is_finished(config: Config) -> bool:
    """Whether the run of these settings is finished.

    Raises:
        CheckpointError: its ``summary.json`` is damaged.
    """
    return RunFolder(config.out).finished(config.train.epochs) is not None


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
            fix="give all of them the same number of epochs and batch size; "
            "a plan of `richkd compare` can have allow_unequal_budgets: true.",
        )


def refuse_changed(run: AnyRun, opened: OpenedData, same_files: bool = True) -> None:
    """Refuse a run that began with other settings, files or images; do nothing if it did not begin.

    Args:
        run: the run.
        opened: the data sets.
        same_files: also compare the files that settings name; not if first runs are still to make them.

    Raises:
        RichKDError: what differs.
    """
    folder = RunFolder(run.config.out)
    if not exists(folder.path / SETTINGS):
        return
    refuse_other_settings(folder.path, run.config, same_length=True, same_files=same_files)
    recorded = folder.inputs()
    data = opened.of(run.config)
    changed = find_changed_data(data, recorded, opened.inputs(run.config, recorded))
    if changed:
        raise CheckpointError(
            f"All runs of a comparison must have the same images ({data.path}, run {run.name})",
            got=changed.text,
            fix="restore the images, or give another out: for a comparison on the new ones.",
        )


def _models_of(run: AnyRun) -> tuple[str, ...]:
    if isinstance(run, FirstRun):
        # Folds need a stand-in each.
        return run.name, run.data
    return run.control_of or run.method, run.cell.pair, run.cell.data


def _check_models(config: Config) -> Network:
    """Open the teachers and the student of a run, and build its loss terms and its optimizer."""
    # Images are read where they are needed, so that a check does not decode all of them.
    data = config.data.model_copy(update={"in_memory_gb": 0.0})
    device = pick_device(config.train.device)
    parts = assemble(config.model_copy(update={"data": data}), device)
    refuse_small_parts(parts)
    build_optimizer(Task(parts), config.optim)
    parts.flush_caches()
    student = parts.student.cpu()
    if device.type == "cuda":
        del parts
        torch.cuda.empty_cache()  # for the processes of the runs
    return student
