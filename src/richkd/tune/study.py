"""The search of one method: Optuna draws the trials, and keeps them in a file that survives kills."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, TypeVar

from richkd.core.errors import CheckpointError
from richkd.core.presence import exists
from richkd.core.seeds import mix_seed
from richkd.core.visible import one_line
from richkd.tune.halving import ETA, Halving
from richkd.tune.space import Entry, Point

if TYPE_CHECKING:
    from optuna.study import Study
    from optuna.trial import FrozenTrial

T = TypeVar("T")

# Trials before the sampler looks at results: those of the first bracket, which are drawn together.
STARTUP = 9
REASON, ASKED = "reason", "asked"


@dataclass(frozen=True)
class TrialRecord:
    """A trial of a search.

    Attributes:
        index: its number; the first trial has the settings of the plan.
        first: number of the first trial with equal settings.
        point: its place in the space, by name of the entry.
        values: its figure after each number of epochs.
        state: "running", "stopped" (others were better), "finished" or "failed".
        reason: why it failed; empty otherwise.
    """

    index: int
    first: int
    point: dict[str, Any]
    values: dict[int, float] = field(default_factory=dict)
    state: str = "running"
    reason: str = ""


class MethodStudy:
    """Trials of one method in successive halving.

    Everything that is drawn is a function of the seed, the number of the trial, and the figures of earlier
    brackets. If the file is lost, a search with the same finished runs makes the same one again.

    Args:
        path: the file.
        entries: the part of the space that the method reads.
        first: the point of the settings of the plan, as far as the space has it.
        halving: the ladder.
        maximize: whether larger figures are better.
        seed: the seed of the search.

    Raises:
        CheckpointError: the file is damaged, or cannot be written.
    """

    def __init__(
        self,
        path: Path,
        entries: Sequence[Entry],
        first: Point,
        halving: Halving,
        *,
        maximize: bool,
        seed: int,
    ) -> None:
        self.path = path
        self.entries = list(entries)
        self.first = dict(first)
        self.halving = halving
        self.maximize = maximize
        self.seed = seed
        self._study = self._guard(_open, path, _pruner(halving, maximize), maximize)
        self._refuse_other_search()
        for trial in self._study.get_trials(deepcopy=False):
            if not trial.state.is_finished() and not self._is_whole(trial):
                # A kill while it was drawn; the next one is drawn in the same way.
                self._guard(self._study.tell, trial.number, state=_states().FAIL)

    def bracket(self, number: int) -> list[TrialRecord]:
        """The trials of a bracket, which are drawn if they do not exist."""
        width = self.halving.widths[0]
        while len(self._trials()) < (number + 1) * width:
            self._draw(len(self._trials()))
        return self.records()[number * width : (number + 1) * width]

    def records(self) -> list[TrialRecord]:
        """All trials, in order."""
        firsts: dict[str, int] = {}
        records = []
        for index, trial in enumerate(self._trials()):
            settings = repr([entry.settings(trial.params[entry.name]) for entry in self.entries])
            records.append(_record(index, firsts.setdefault(settings, index), trial))
        return records

    def report(self, index: int, epochs: int, value: float) -> None:
        """Keep the figure of a trial after a number of epochs."""
        trial = self._trials()[index]
        if epochs not in trial.intermediate_values:
            self._guard(self._trial(trial).report, value, epochs)

    def fail(self, index: int, reason: str) -> None:
        """A run of a trial failed, so it is not continued."""
        trial = self._trials()[index]
        self._guard(self._trial(trial).set_user_attr, REASON, reason)
        self._guard(self._study.tell, trial.number, state=_states().FAIL)

    def halve(self, number: int, rung: int) -> None:
        """Stop the trials of a bracket that do not go on; after the last rung, finish the others."""
        epochs = self.halving.rungs[rung]
        is_last = rung == len(self.halving.rungs) - 1
        for record in self.bracket(number):
            if record.state != "running" or max(record.values) > epochs:
                # Decided before a stop.
                continue
            trial = self._trials()[record.index]
            if is_last:
                self._guard(self._study.tell, trial.number, record.values[epochs])
            elif self._trial(trial).should_prune():
                self._guard(self._study.tell, trial.number, state=_states().PRUNED)

    def best(self) -> TrialRecord | None:
        """The finished trial with the best figure; the earliest of equal ones. None if none finished."""
        finished = [record for record in self.records() if record.state == "finished"]
        longest = self.halving.rungs[-1]
        sign = -1 if self.maximize else 1
        return min(finished, key=lambda record: (sign * record.values[longest], record.index), default=None)

    def _refuse_other_search(self) -> None:
        """Refuse a file that was begun with another space, seed or ladder; more brackets may be added."""
        entries = [(entry.name, repr(entry.distribution)) for entry in self.entries]
        asked = {"space": entries, "first": self.first, "rungs": self.halving.rungs, "seed": self.seed}
        asked = json.loads(json.dumps(asked | {"maximize": self.maximize}))
        known = self._study.user_attrs.get(ASKED)
        if known is None:
            self._guard(self._study.set_user_attr, ASKED, asked)
        elif known != asked:
            changed = [name for name, value in asked.items() if known.get(name) != value]
            raise CheckpointError(
                f"A search that goes on must have the same space, lengths, metric and seed ({self.path})",
                got="; ".join(
                    f"{name} {asked[name]} where it began with {known.get(name)}" for name in changed
                ),
                fix="give another --out, or the plan as it was; a larger budget is possible if the lengths "
                "of the runs stay.",
            )

    def _draw(self, index: int) -> None:
        from optuna.exceptions import ExperimentalWarning
        from optuna.samplers import BaseSampler, PartialFixedSampler, TPESampler

        sampler: BaseSampler = TPESampler(
            n_startup_trials=STARTUP, constant_liar=True, seed=mix_seed(self.seed, "tune", index) & 0xFFFFFFFF
        )
        if index == 0:
            with warnings.catch_warnings():
                # Optuna calls this sampler experimental since its version 2.4.
                warnings.simplefilter("ignore", ExperimentalWarning)
                sampler = PartialFixedSampler(self.first, sampler)
        self._study.sampler = sampler
        distributions = {entry.name: entry.distribution for entry in self.entries}
        self._guard(self._study.ask, distributions)

    def _trials(self) -> list[FrozenTrial]:
        return [trial for trial in self._study.get_trials(deepcopy=False) if self._is_whole(trial)]

    def _is_whole(self, trial: FrozenTrial) -> bool:
        return set(trial.params) == {entry.name for entry in self.entries}

    def _trial(self, trial: FrozenTrial) -> Any:
        from optuna.trial import Trial

        return Trial(self._study, trial._trial_id)

    def _guard(self, function: Callable[..., T], *args: Any, **options: Any) -> T:
        try:
            return function(*args, **options)
        except OSError as error:
            raise CheckpointError(
                f"{self.path} could not be written",
                got=one_line(error),
                fix="free space and repeat the command.",
            ) from error


def _open(path: Path, pruner: Any, maximize: bool) -> Study:
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    path.parent.mkdir(parents=True, exist_ok=True)
    _cut_incomplete_line(path)
    try:
        storage = JournalStorage(JournalFileBackend(str(path), lock_obj=_held()))
        return optuna.create_study(
            storage=storage,
            study_name="search",
            direction="maximize" if maximize else "minimize",
            pruner=pruner,
            load_if_exists=True,
        )
    except OSError:
        raise
    except Exception as error:
        raise CheckpointError(
            f"{path} must be a journal of Optuna",
            got=f"a damaged file ({type(error).__name__}: {one_line(error)})",
            fix="delete it and repeat the command: finished runs are kept, and the search is made again.",
        ) from error


def _cut_incomplete_line(path: Path) -> None:
    """Remove a line that was cut off by a kill: the next one would be appended to it."""
    if exists(path):
        content = path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        if whole != content:
            with path.open("r+b") as file:
                file.truncate(len(whole))


def _held() -> Any:
    """No further lock: the folder of the search has one writer, and a lock of Optuna would outlive a kill."""
    return SimpleNamespace(acquire=lambda: True, release=lambda: None)


def _pruner(halving: Halving, maximize: bool) -> Any:
    """Successive halving within a bracket.

    Optuna's own pruner decides when a figure arrives, so the first trial of a search always goes on. Here all
    figures of a rung are known before the first decision.
    """
    from optuna.pruners import BasePruner

    class BracketPruner(BasePruner):
        def prune(self, study: Study, trial: FrozenTrial) -> bool:
            names = set(trial.params)
            whole = [other for other in study.get_trials(deepcopy=False) if set(other.params) == names]
            place = next(i for i, other in enumerate(whole) if other.number == trial.number)
            width = halving.widths[0]
            bracket = whole[place // width * width : place // width * width + width]
            epochs = max(trial.intermediate_values)
            go_on = halving.widths[halving.rungs.index(epochs)] // ETA
            values = [
                (-value if maximize else value, other.number)
                for other in bracket
                if not math.isnan(value := other.intermediate_values.get(epochs, math.nan))
            ]
            is_first = place == 0
            return not is_first and trial.number not in {number for _, number in sorted(values)[:go_on]}

    return BracketPruner()


def _states() -> Any:
    from optuna.trial import TrialState

    return TrialState


def _record(index: int, first: int, trial: FrozenTrial) -> TrialRecord:
    names = {"RUNNING": "running", "PRUNED": "stopped", "COMPLETE": "finished", "FAIL": "failed"}
    reason = str(trial.user_attrs.get(REASON, ""))
    state = names.get(trial.state.name, "running")
    return TrialRecord(index, first, dict(trial.params), dict(trial.intermediate_values), state, reason)
