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


def ladder(
    plan: TunePlan, methods: Sequence[SearchedMethod], trials: Trials, jobs: int, do: DoRuns
) -> Halving:
    """The ladder of all methods.

    With minutes, one epoch of each method is timed, and all methods get the number of epochs that the slowest
    one can do, so that their longest runs can be compared. It is recorded, so that a search that was stopped
    goes on with the same ladder.

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
    epochs = plan.budget.epochs
    if epochs is None:
        path = trials.out / FILE
        epochs = _recorded(path, plan.budget.minutes)
        if epochs is None:
            epochs = _timed(plan, methods, trials, jobs, do)
            record = {"minutes": plan.budget.minutes, "epochs": epochs}
            write_atomically(path, (to_json(record) + "\n").encode())
    return plan_halving(epochs, plan.epochs)


def _timed(plan: TunePlan, methods: Sequence[SearchedMethod], trials: Trials, jobs: int, do: DoRuns) -> int:
    runs = {method.name: trials.of_length(method.config, method.name, "timed", 1) for method in methods}
    failed = do(list(runs.values()))
    assert plan.budget.minutes is not None
    fewest = 0
    for name, run in runs.items():
        if run.name in failed:
            raise ConfigError(
                f"The settings of method '{name}' must be able to train for an epoch",
                got=failed[run.name],
                fix=f"see {trials.out / 'logs' / run.name}.txt.",
            )
        seconds = seconds_of(run.config.out)
        epochs = int(plan.budget.minutes * MINUTE * jobs / max(seconds, 1e-3))
        if epochs < 1:
            raise ConfigError(
                f"The budget must be long enough for an epoch of method '{name}'",
                got=f"{plan.budget.minutes:g} minutes, and {seconds / MINUTE:.1f} minutes for an epoch",
                fix="give more minutes, fewer training images, or a teacher cache.",
            )
        fewest = min(fewest or epochs, epochs)
    return fewest


def _recorded(path: Path, minutes: float | None) -> int | None:
    """The number of epochs that was found before for these minutes."""
    try:
        recorded = read_json(path)
        return int(recorded["epochs"]) if recorded["minutes"] == minutes else None
    except (OSError, ValueError, KeyError, TypeError):
        return None
