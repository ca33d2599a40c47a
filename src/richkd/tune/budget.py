"""The ladder of each method from its budget; minutes become epochs by timing one epoch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from richkd.compare.costs import total_seconds
from richkd.compare.runs import RUNS, PlannedRun
from richkd.core.errors import ConfigError
from richkd.core.files import write_atomically
from richkd.core.json_text import to_json
from richkd.core.structured import read_json
from richkd.core.visible import counted
from richkd.tune.halving import Halving, plan_halving
from richkd.tune.plan import TunePlan
from richkd.tune.trials import SearchedMethod, Trials

FILE, TIMED = "budget.json", "timed"
MINUTE = 60.0

# Does runs, and returns why those that failed did.
DoRuns = Callable[[Sequence[PlannedRun]], Mapping[str, str]]


@dataclass(frozen=True)
class _Record:
    """What was found before.

    Attributes:
        minutes, epochs: the budget of the search, and the number of epochs that it became; None without one.
        seconds: seconds of an epoch, by name of the method.
    """

    minutes: float | None = None
    epochs: int | None = None
    seconds: Mapping[str, float] = field(default_factory=dict)


def ladder(
    plan: TunePlan, methods: Sequence[SearchedMethod], trials: Trials, jobs: int, do: DoRuns
) -> Halving:
    """The ladder of all methods.

    With minutes, one epoch of each method is timed, and all methods get the number of epochs that the slowest
    one can do, so that their longest runs can be compared. It is recorded, so that a search that was stopped
    goes on with the same ladder. A method that is added later is timed, too.

    Args:
        plan: the plan.
        methods: its methods.
        trials: makes their runs.
        jobs: number of runs at once, which share the minutes.
        do: does the runs that are timed.

    Raises:
        ConfigError: a run that is timed fails, or an epoch takes longer than the budget; or an added method
            is so slow that the search would be smaller than the one that has begun.
        CheckpointError: the record cannot be written.
    """
    minutes = plan.budget.minutes
    if minutes is None:
        assert plan.budget.epochs is not None
        return plan_halving(plan.budget.epochs, plan.epochs)
    known = _recorded(trials.out / FILE)
    new = [method for method in methods if method.name not in known.seconds]
    seconds = {**known.seconds, **_timed(new, trials, do)}
    began_with = known.epochs if known.minutes == minutes else None
    asked = [method.name for method in (methods if began_with is None else new)]
    possible = {name: _epochs_in(minutes, jobs, seconds[name], name) for name in asked}
    epochs = min([*possible.values(), *([] if began_with is None else [began_with])])
    if began_with is not None and plan_halving(epochs, plan.epochs) != plan_halving(began_with, plan.epochs):
        slowest = min(possible, key=lambda name: possible[name])
        _refuse_smaller(slowest, seconds[slowest], epochs, began_with, trials.out)
    record = _Record(minutes, epochs, seconds)
    if record != known:
        write_atomically(trials.out / FILE, (to_json(asdict(record)) + "\n").encode())
    return plan_halving(epochs, plan.epochs)


def timed_runs(methods: Sequence[SearchedMethod], trials: Trials) -> list[PlannedRun]:
    """The run of one epoch of each method, by which minutes become epochs."""
    return [trials.of_length(method.config, method.name, TIMED, 1) for method in methods]


def _timed(methods: Sequence[SearchedMethod], trials: Trials, do: DoRuns) -> dict[str, float]:
    """Seconds of an epoch, by name of the method."""
    runs = timed_runs(methods, trials)
    failed = do(runs) if runs else {}
    for run in runs:
        if run.name in failed:
            raise ConfigError(
                f"The settings of method '{run.method}' must be able to train for an epoch",
                got=failed[run.name],
                fix=f"see {trials.out / 'logs' / run.name}.txt.",
            )
    return {run.method: total_seconds(run.config.out) for run in runs}


def _epochs_in(minutes: float, jobs: int, seconds: float, method: str) -> int:
    """The epochs that a method can do in its minutes with several runs at once."""
    epochs = int(minutes * MINUTE * jobs / max(seconds, 1e-3))
    if epochs < 1:
        raise ConfigError(
            f"The budget must be long enough for an epoch of method '{method}'",
            got=f"{minutes:g} minutes, and {seconds / MINUTE:.1f} minutes for an epoch",
            fix="give more minutes, fewer training images, or a teacher cache.",
        )
    return epochs


def _refuse_smaller(method: str, seconds: float, epochs: int, began_with: int, out: Path) -> None:
    """Refuse a smaller search than that of the trials that have begun; without trials, nothing is lost."""
    if all(folder.name.endswith(f"-{TIMED}-e1") for folder in (out / RUNS).glob("*-t*-e*")):
        return
    raise ConfigError(
        f"A method that is added to a search must be able to do as many epochs as the others ({out / FILE})",
        got=f"method '{method}', {seconds:.3g} seconds for an epoch, so {counted(epochs, 'epoch')} where the "
        f"search began with {began_with:,}",
        fix=f"give another --out, remove {out} to search all methods again, give more minutes, or remove the "
        "method.",
    )


def _recorded(path: Path) -> _Record:
    """The record of an earlier start; an empty one if there is none that can be read."""
    try:
        content = read_json(path)
        seconds = {str(name): float(value) for name, value in content.get("seconds", {}).items()}
        return _Record(float(content["minutes"]), int(content["epochs"]), seconds)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return _Record()
