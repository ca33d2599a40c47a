"""A comparison from its plan to its page: check all runs, do those that are left, and compute the figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from richkd.compare.corrupted import FOLDER as CORRUPTED
from richkd.compare.corrupted import corrupted_errors
from richkd.compare.costs import RunCost, costs_of
from richkd.compare.first import FOLDER as FIRST
from richkd.compare.first import FirstRun, stages_of
from richkd.compare.first_figures import FirstFigures, collect_first_figures
from richkd.compare.further import further_figures
from richkd.compare.layers import read_layers
from richkd.compare.logits import StoredLogits, are_stored, read_logits
from richkd.compare.machine import default_jobs, threads_of_runs
from richkd.compare.pages import write_pages
from richkd.compare.plan import Source, read_plan
from richkd.compare.precisions import precision_warnings
from richkd.compare.progress import QueueProgress
from richkd.compare.queue import Start, run_queue
from richkd.compare.results import CellFigures, figures_of
from richkd.compare.runs import RUNS, AnyRun, PlannedRun, first_runs_of, planned_runs
from richkd.compare.validate import Checked, check_runs, refuse_other_teachers
from richkd.compare.worker import Job
from richkd.core.files import refuse_unwritable
from richkd.core.folder_lock import folder_lock
from richkd.core.home import expanded
from richkd.core.logs import Log
from richkd.core.temporary import remove_abandoned
from richkd.core.terminal import Terminal
from richkd.core.visible import counted
from richkd.training.run_folder import RunFolder

LOGITS, LOGS = "logits", "logs"


@dataclass(frozen=True)
class Comparison:
    """A finished comparison; made by `compare`.

    Attributes:
        out: its folder.
        cells: all figures.
        costs: the cost of each finished run, by name.
        failed: reason by name, of the runs that have no result.
        warnings: what makes the comparison doubtful.
        first: figures of the first runs.
    """

    out: Path
    cells: tuple[CellFigures, ...]
    costs: dict[str, RunCost]
    failed: dict[str, str]
    warnings: tuple[str, ...]
    first: tuple[FirstFigures, ...] = ()


def compare(
    path: Path,
    *,
    out: Path | None = None,
    baseline: str | None = None,
    jobs: int | None = None,
    check_only: bool = False,
    console: Terminal | None = None,
    start: Start | None = None,
) -> Comparison | None:
    """Do all runs of a plan that are not finished, and write the tables and the page.

    Args:
        path: the plan.
        out: folder of the comparison; by default that of the plan, else ``runs/NAME-OF-THE-PLAN``.
        baseline: name of the method that the others are compared with; by default that of the plan.
        jobs: number of runs at once; by default that of the plan, else what the machine allows.
        check_only: check all runs, and do none.
        console: where to print; by default standard output.
        start: how processes start; see `run_queue`.

    Returns:
        The figures; None with ``check_only``.

    Raises:
        RichKDError: the plan is wrong, or the folder cannot be written; nothing was started then. Or the
            disk is full.
        Interrupted: a signal came; the same command goes on.
    """
    console = console or Terminal()
    source = read_plan(path, baseline)
    # First runs are models in it, and the names of models expand ~.
    out = expanded(out or source.plan.out or Path("runs") / path.stem)
    runs = planned_runs(source, read_layers(source), out)
    refuse_unwritable(out)
    if check_only:
        _print_checked(check_runs(source.plan, runs, console.print), runs, console)
        return None
    with folder_lock(out, f"--out {out}"):
        for folder in (out, out / LOGITS, out / CORRUPTED):
            remove_abandoned(folder)
        checked = check_runs(source.plan, runs, console.print)
        _print_checked(checked, runs, console)
        failed = _finish_runs(source, runs, checked, out, jobs, console, start)
        return _write(source, runs, checked, failed, out, console.print)


def _print_checked(checked: Checked, runs: Sequence[PlannedRun], console: Terminal) -> None:
    by_budget: dict[str, list[str]] = {}
    for one in first_runs_of(runs):
        console.print(f"{one.name}: {checked.budgets[one.name]}", soft_wrap=True)
    for run in runs:
        by_budget.setdefault(checked.budgets[run.name], []).append(run.method)
    for budget, methods in by_budget.items():
        console.print(f"budget: {budget}: {', '.join(dict.fromkeys(methods))}", soft_wrap=True)
    for warning in checked.warnings:
        console.print(f"warning: {warning}", soft_wrap=True)


def _finish_runs(
    source: Source,
    runs: Sequence[PlannedRun],
    checked: Checked,
    out: Path,
    jobs: int | None,
    console: Terminal,
    start: Start | None,
) -> dict[str, str]:
    """Do the runs that are left, first runs before all others; returns why some failed, by name."""
    first = first_runs_of(runs)
    every: list[AnyRun] = [*first, *runs]
    done = [run.name for run in every if run.name in checked.finished and _is_complete(run, out)]
    left = [run for run in every if run.name not in done]
    for run in every:
        if run.name in done:
            RunFolder(run.config.out).tidy()
    at_once = jobs or source.plan.jobs or default_jobs(left)
    stages = stages_of(first, runs)
    widest = max((len(stage) for stage in stages[:-1]), default=1)
    threads = threads_of_runs(out, {FIRST: min(at_once, widest), RUNS: min(at_once, len(runs))})
    progress = QueueProgress(every, done, console, min(at_once, len(left)), images=checked.images)
    if left:
        console.print(f"{counted(len(left), 'run')} to do, {min(at_once, len(left))} at once")
    failed: dict[str, str] = {}
    for stage in stages:
        refuse_other_teachers([run for run in stage if not _broken(run, failed)], checked)
        waiting = [run for run in stage if run.name not in done]
        for run in waiting:
            if reason := _broken(run, failed):
                failed[run.name] = reason
                progress.given_up(run.name, reason)
        ready = [_job(run, out, threads) for run in waiting if run.name not in failed]
        outcomes = run_queue(
            ready,
            at_once,
            began=progress.began,
            ended=progress.ended,
            look=progress.look,
            start=start,
        )
        failed |= {name: one.reason for name, one in outcomes.items() if one.state == "failed"}
    return failed


def _is_complete(run: AnyRun, out: Path) -> bool:
    """Whether everything that belongs to a finished run is there."""
    return isinstance(run, FirstRun) or are_stored(run.config, logits_file(out, run))


def _broken(run: AnyRun, failed: Mapping[str, str]) -> str:
    """Why a run cannot begin; empty if all first runs that it needs are finished."""
    reasons = [f"{one.label} failed: {failed[one.name]}" for one in run.needs if one.name in failed]
    return reasons[0] if reasons else ""


def _job(run: AnyRun, out: Path, threads: Mapping[str, int]) -> Job:
    kind, logits = (FIRST, None) if isinstance(run, FirstRun) else (RUNS, logits_file(out, run))
    return Job(run.name, run.config, logits, out / LOGS / f"{run.name}.txt", threads[kind])


def logits_file(out: Path, run: PlannedRun) -> Path:
    """The file of the test logits of a run."""
    return out / LOGITS / f"{run.name}.safetensors"


def _write(
    source: Source,
    runs: Sequence[PlannedRun],
    checked: Checked,
    failed: Mapping[str, str],
    out: Path,
    log: Log,
) -> Comparison:
    plan, done = source.plan, [run for run in runs if run.name not in failed]
    logits: dict[str, StoredLogits] = {run.name: read_logits(logits_file(out, run)) for run in done}
    corrupted = corrupted_errors(done, logits, plan.corruptions, out, log) if plan.corruptions else {}
    further = further_figures(logits, plan.hierarchy, corrupted)
    cells = figures_of(runs, logits, failed, plan.reference, checked.budgets, further)
    teachers = collect_first_figures(first_runs_of(runs), failed)
    warnings = (*checked.warnings, *precision_warnings(done))
    comparison = Comparison(out, cells, costs_of(done, out), dict(failed), warnings, teachers)
    write_pages(source.name, cells, comparison.costs, out, warnings, teachers)
    return comparison
