"""The ladder of each method from its budget; minutes become epochs by timing one epoch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from richkd.compare.costs import seconds_of
from richkd.compare.runs import PlannedRun
from richkd.core.errors import ConfigError
from richkd.core.files import write_atomically
from richkd.core.json_text import to_json
from richkd.core.structured import read_json
from richkd.tune.halving import Halving, plan_halving
from richkd.tune.plan import TunePlan
from richkd.tune.trials import SearchedMethod, Trials

FILE = "budget.json"
MINUTE = 60.0

# Does runs, and returns why those that failed did.
DoRuns = Callable[[Sequence[PlannedRun]], Mapping[str, str]]


def halvings(
    plan: TunePlan, methods: Sequence[SearchedMethod], trials: Trials, jobs: int, do: DoRuns
) -> dict[str, Halving]:
    """The ladder of each method.

    With minutes, one epoch of each method is timed. The numbers of epochs that follow are recorded, so that a
    search that was stopped goes on with the same ladder.

    Args:
        plan: the plan.
        methods: its methods.
        trials: makes their runs.
        jobs: number of runs at once, which share the minutes.
        do: does the runs that are timed.

    Raises:
        ConfigError: a run that is timed fails, or an epoch takes longer than the budget.
        CheckpointError: the record cannot be written.
    """
    if plan.budget.epochs is not None:
        return {method.name: plan_halving(plan.budget.epochs, plan.epochs) for method in methods}
    path = trials.out / FILE
    epochs = _recorded(path)
    if set(epochs) != {method.name for method in methods}:
        epochs = _timed(plan, methods, trials, jobs, do)
        write_atomically(path, (to_json({"epochs": epochs}) + "\n").encode())
    return {method.name: plan_halving(epochs[method.name], plan.epochs) for method in methods}


def _timed(
    plan: TunePlan, methods: Sequence[SearchedMethod], trials: Trials, jobs: int, do: DoRuns
) -> dict[str, int]:
    runs = {method.name: trials.of_length(method.config, method.name, "timed", 1) for method in methods}
    failed = do(list(runs.values()))
    assert plan.budget.minutes is not None
    epochs = {}
    for name, run in runs.items():
        if run.name in failed:
            raise ConfigError(
                f"The settings of method '{name}' must be able to train for an epoch",
                got=failed[run.name],
                fix=f"see {trials.out / 'logs' / run.name}.txt.",
            )
        seconds = seconds_of(run.config.out)
        epochs[name] = int(plan.budget.minutes * MINUTE * jobs / max(seconds, 1e-3))
        if epochs[name] < 1:
            raise ConfigError(
                f"The budget must be long enough for an epoch of method '{name}'",
                got=f"{plan.budget.minutes:g} minutes, and {seconds / MINUTE:.1f} minutes for an epoch",
                fix="give more minutes, fewer training images, or a teacher cache.",
            )
    return epochs


def _recorded(path: Path) -> dict[str, int]:
    try:
        recorded = read_json(path)["epochs"]
        return {str(name): int(epochs) for name, epochs in recorded.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}
