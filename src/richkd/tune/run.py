"""A search from its plan to its recipes: rounds of runs in the queue, until the budget is used."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from richkd.compare.layers import read_layers
from richkd.compare.machine import default_jobs, threads_of_runs
from richkd.compare.opened import OpenedData
from richkd.compare.problems import RunProblems
from richkd.compare.progress import QueueProgress
from richkd.compare.queue import Start, run_queue
from richkd.compare.runs import RUNS, PlannedRun
from richkd.compare.validate import check_runs, is_finished, refuse_changed
from richkd.compare.worker import Job
from richkd.core.errors import NAMED, ProcessError
from richkd.core.files import refuse_unwritable
from richkd.core.folder_lock import folder_lock
from richkd.core.home import expanded
from richkd.core.temporary import remove_abandoned
from richkd.core.terminal import Terminal
from richkd.core.visible import counted
from richkd.core.waiting import clock
from richkd.pipeline.sharpen import refuse_impossible
from richkd.training.run_folder import RunFolder
from richkd.tune.budget import MINUTE, ladder, timed_runs
from richkd.tune.halving import ETA, Halving
from richkd.tune.pages import write_pages
from richkd.tune.plan import TuneSource, read_tune_plan
from richkd.tune.results import SearchResult, figures_of
from richkd.tune.study import MethodStudy, TrialRecord
from richkd.tune.trials import SearchedMethod, Trials

SPLIT = "val"
LOGS, STUDIES = "logs", "studies"


@dataclass(frozen=True)
class TuneResult:
    """A finished search; made by `tune`.

    Attributes:
        out: its folder.
        metric: the figure that was searched for.
        methods: what was found for each method.
    """

    out: Path
    metric: str
    methods: tuple[SearchResult, ...]


@dataclass
class _Search:
    """The search of one method."""

    method: SearchedMethod
    halving: Halving
    study: MethodStudy


def tune(
    path: Path,
    *,
    out: Path | None = None,
    jobs: int | None = None,
    check_only: bool = False,
    console: Terminal | None = None,
    start: Start | None = None,
) -> TuneResult | None:
    """Search the settings of each method of a plan; see `search`.

    Args:
        path: the plan.
        out: folder of the search; by default that of the plan, else ``runs/NAME-OF-THE-PLAN``.
        jobs: number of runs at once; by default that of the plan, else what the machine allows.
        check_only: check the plan, and do no run.
        console: where to print; by default standard output.
        start: how processes start; see `run_queue`.

    Raises:
        RichKDError: the plan is wrong, the folder cannot be written, the disk is full, or runs were ended by
            a signal that this process did not get; then the same command goes on.
        Interrupted: a signal came; the same command goes on.
    """
    source = read_tune_plan(path)
    folder = expanded(out or source.plan.out or Path("runs") / path.stem)
    return search(source, folder, jobs=jobs, check_only=check_only, console=console, start=start)


def search(
    source: TuneSource,
    out: Path,
    *,
    jobs: int | None = None,
    check_only: bool = False,
    console: Terminal | None = None,
    start: Start | None = None,
) -> TuneResult | None:
    """Search the settings of each method by successive halving on the validation split.

    All methods have the same budget. Trials are drawn by Optuna (TPE). Runs are those of ``richkd distill``,
    in processes of their own; finished ones are not repeated, and stopped ones go on.

    Args:
        source: the plan.
        out: folder of the search.
        jobs, check_only, console, start: see `tune`.

    Returns:
        What was found for each method; None with ``check_only``. Recipes and pages were written.

    Raises:
        RichKDError, Interrupted: see `tune`.
    """
    console = console or Terminal()
    trials = Trials(source, read_layers(source.source), out)
    methods = trials.methods()
    refuse_unwritable(out)
    base_runs = [
        trials.of_length(method.config, method.name, "own", source.plan.epochs) for method in methods
    ]
    if check_only:
        _check(source, trials, methods, base_runs, OpenedData(SPLIT))
        _print_space(methods, console)
        return None
    with folder_lock(out, f"--out {out}"):
        remove_abandoned(out)
        opened = OpenedData(SPLIT)
        _check(source, trials, methods, base_runs, opened)
        _print_space(methods, console)
        # The first rung has several runs of each method.
        at_once = jobs or source.plan.jobs or default_jobs(base_runs * ETA)
        runner = _Runner(out, at_once, threads_of_runs(out, {RUNS: at_once})[RUNS], opened, console, start)
        if source.plan.budget.minutes is not None:
            runner.refuse_changed(timed_runs(methods, trials))
        halving = ladder(source.plan, methods, trials, at_once, runner.finish)
        searches = [_open(source, out, method, halving) for method in methods]
        runner.refuse_changed(_done(searches, trials))
        _print_ladder(halving, source.plan.budget.minutes, len(methods), console)
        for bracket, rung in itertools.product(range(halving.brackets), range(len(halving.rungs))):
            _round(searches, bracket, rung, trials, runner, source.plan.metric)
        results = tuple(_result(one, trials) for one in searches)
        images = len(runner.opened.of(methods[0].config).splits[SPLIT])
        write_pages(source.source.name, results, source.plan.metric, images, out)
        return TuneResult(out, source.plan.metric, results)


def _check(
    source: TuneSource,
    trials: Trials,
    methods: Sequence[SearchedMethod],
    runs: list[PlannedRun],
    opened: OpenedData,
) -> None:
    """Refuse runs that cannot start, and entropies in the space that no target of the classes has."""
    check_runs(source.source.plan, runs, _silent, SPLIT)
    problems = RunProblems()
    for method in methods:
        classes = len(opened.of(method.config).class_names)
        for entry in method.entries:
            where = f"{entry.place}, method '{method.name}'"
            for value in entry.samples():
                config = trials.config(method.name, method.entries, {**method.first, entry.name: value})
                problems.attempt(where, refuse_impossible, config.fusion, classes)
    problems.refuse_all()


class _Runner:
    """Does runs in the queue."""

    def __init__(
        self, out: Path, jobs: int, threads: int, opened: OpenedData, console: Terminal, start: Start | None
    ) -> None:
        self.out, self.jobs, self.threads, self.opened = out, jobs, threads, opened
        self.console, self.start = console, start

    def refuse_changed(self, runs: Sequence[PlannedRun]) -> None:
        """Refuse runs that began with other settings or images.

        Raises:
            RichKDError: what differs.
        """
        problems = RunProblems()
        for run in runs:
            problems.attempt(run.method, refuse_changed, run, self.opened)
        problems.refuse_all()

    def finish(self, runs: Sequence[PlannedRun]) -> dict[str, str]:
        """Do runs that are not finished; returns why those that failed did.

        Raises:
            RichKDError: a run began with other settings or images.
            ProcessError: a signal ended runs; they can go on.
        """
        failed, ended = self.attempt(runs)
        self.refuse_ended(ended)
        return failed

    def attempt(self, runs: Sequence[PlannedRun]) -> tuple[dict[str, str], dict[str, str]]:
        """Do runs that are not finished; returns why those that failed did, and what ended others."""
        self.refuse_changed(runs)
        finished = {run.name for run in runs if is_finished(run.config)}
        for run in runs:
            if run.name in finished:
                RunFolder(run.config.out).tidy()
        left = [run for run in runs if run.name not in finished]
        if not left:
            return {}, {}
        progress = QueueProgress(left, [], self.console, min(self.jobs, len(left)), SPLIT)
        jobs = [
            Job(
                run.name, run.config, None, self.out / LOGS / f"{run.name}.txt", self.threads, False, (SPLIT,)
            )
            for run in left
        ]
        outcomes = run_queue(
            jobs, self.jobs, began=progress.began, ended=progress.ended, look=progress.look, start=self.start
        )
        broken = {name: outcome for name, outcome in outcomes.items() if outcome.state == "failed"}
        failed = {name: outcome.reason for name, outcome in broken.items() if not outcome.ended}
        return failed, {name: outcome.reason for name, outcome in broken.items() if outcome.ended}

    def refuse_ended(self, ended: Mapping[str, str]) -> None:
        """Refuse to go on without runs that a signal ended: their trials are not worse than others.

        Raises:
            ProcessError: names the runs.
        """
        if ended:
            named = [f"{name}: {reason}" for name, reason in ended.items()]
            more = [f"and {len(named) - NAMED:,} more"] if len(named) > NAMED else []
            raise ProcessError(
                f"No run of the search must be ended by a signal ({self.out / LOGS})",
                got="; ".join([*named[:NAMED], *more]),
                fix="repeat the command: finished runs are kept, and these go on from their last "
                "checkpoints. If the memory was full, give fewer --jobs.",
            )


def _open(source: TuneSource, out: Path, method: SearchedMethod, halving: Halving) -> _Search:
    study = MethodStudy(
        out / STUDIES / f"{method.name}.jsonl",
        method.entries,
        method.first,
        halving,
        maximize=source.plan.metric == "top1",
        seed=source.plan.seed,
    )
    return _Search(method, halving, study)


def _round(
    searches: Sequence[_Search], bracket: int, rung: int, trials: Trials, runner: _Runner, metric: str
) -> None:
    """One rung of one bracket of all methods, in one queue."""
    planned: list[tuple[_Search, TrialRecord, PlannedRun]] = []
    for one in searches:
        epochs = one.halving.rungs[rung]
        for record in one.study.bracket(bracket):
            if record.state == "running" and epochs not in record.values:
                planned.append((one, record, trials.run(one.method, record, epochs)))
    failed, ended = runner.attempt(list({run.name: run for _, _, run in planned}.values()))
    for one, record, run in planned:
        if run.name in ended:
            continue
        reason, value = failed.get(run.name), math.nan
        if reason is None:
            value = figures_of(run.config).value(metric)
            reason = "" if math.isfinite(value) else f"its {metric} is {value}"
        if reason:
            one.study.fail(record.index, reason)
        else:
            one.study.report(record.index, run.config.train.epochs, value)
    # What the others found is kept first, so that none of them is done again.
    runner.refuse_ended(ended)
    for one in searches:
        one.study.halve(bracket, rung)


def _done(searches: Sequence[_Search], trials: Trials) -> list[PlannedRun]:
    """The runs of all figures that are known."""
    return [
        trials.run(one.method, record, epochs)
        for one in searches
        for record in one.study.records()
        for epochs in record.values
    ]


def _result(one: _Search, trials: Trials) -> SearchResult:
    records = one.study.records()
    best = one.study.best()
    config = None if best is None else trials.config(one.method.name, one.method.entries, best.point)
    figures = {}
    for record in records:
        for epochs in record.values:
            run = trials.run(one.method, record, epochs)
            if RunFolder(run.config.out).summary() is not None:
                figures[record.index, epochs] = figures_of(run.config)
    return SearchResult(one.method, one.halving, tuple(records), best, config, figures)


def _print_space(methods: Sequence[SearchedMethod], console: Terminal) -> None:
    for method in methods:
        names = ", ".join(entry.name for entry in method.entries)
        console.print(f"{method.name}: {names}", soft_wrap=True)
        if method.outside:
            console.print(f"{method.name}: trial 0 has {method.first_trial}", soft_wrap=True)


def _print_ladder(halving: Halving, minutes: float | None, methods: int, console: Terminal) -> None:
    console.print(f"for each method: {halving.in_words}", soft_wrap=True)
    if minutes is not None:
        console.print(
            f"about {clock(MINUTE * minutes * methods)} of training for {counted(methods, 'method')}, and "
            "the time in which runs start and are evaluated",
            soft_wrap=True,
        )


def _silent(text: str) -> None:
    pass
