"""Minutes become epochs: by all methods of a plan, also by those that are added later."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from richkd.compare.layers import read_layers
from richkd.compare.runs import PlannedRun
from richkd.tune import budget
from richkd.tune.budget import ladder
from richkd.tune.halving import Halving
from richkd.tune.plan import Budget, TunePlan, of_plan
from richkd.tune.trials import Trials
from tests.fixtures import refusal

SECONDS = {"fast": 1.0, "equal": 1.01, "slow": 20.0}


class Searches:
    """Starts of a search in the same folder, whose epochs have the seconds above."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.timed: list[str] = []

    def start(self, *methods: str, minutes: float = 10.0, jobs: int = 1) -> Halving:
        plan = TunePlan(
            base={"data": {"path": "photos"}, "student": {"name": "resnet18"}},
            methods={name: {"method": "ce"} for name in methods},
            epochs=30,
            budget=Budget(minutes=minutes),
        )
        source = of_plan(plan, "plan.yaml", {})
        trials = Trials(source, read_layers(source.source), self.out)
        self.timed = []
        return ladder(plan, trials.methods(), trials, jobs, self._do)

    def record(self) -> Any:
        return json.loads((self.out / "budget.json").read_text())

    def begin_trial(self) -> None:
        (self.out / "runs" / "fast-t000-e3").mkdir(parents=True)

    def _do(self, runs: Sequence[PlannedRun]) -> Mapping[str, str]:
        for run in runs:
            self.timed.append(run.method)
            run.config.out.mkdir(parents=True, exist_ok=True)
        return {}


@pytest.fixture
def searches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Searches:
    monkeypatch.setattr(budget, "total_seconds", lambda folder: SECONDS[folder.name.partition("-")[0]])
    return Searches(tmp_path)


def test_a_method_that_is_added_before_the_first_trial_is_timed(searches: Searches) -> None:
    assert searches.start("fast").epochs > 500
    assert searches.start("fast", "slow").epochs <= 30
    assert searches.timed == ["slow"]
    assert searches.record() == {"minutes": 10, "epochs": 30, "seconds": {"fast": 1, "slow": 20}}


def test_a_method_that_is_too_slow_for_a_search_that_has_begun_is_refused(searches: Searches) -> None:
    began = searches.start("fast")
    record = searches.record()
    searches.begin_trial()
    for _ in range(2):
        error = refusal(searches.start, "fast", "slow")
        assert "budget.json" in error.rule
        assert "'slow', 20 seconds for an epoch, so 30 epochs where the search began with 600" in str(
            error.got
        )
        assert "give another --out, remove " in str(error.fix)
        assert searches.record() == record
    assert searches.start("fast") == began
    # As much time as the slow method needs for the same search.
    assert searches.start("fast", "slow", minutes=200) == began


def test_a_method_that_fits_into_a_search_that_has_begun_is_added(searches: Searches) -> None:
    began = searches.start("fast")
    searches.begin_trial()
    assert searches.start("fast", "equal") == began
    assert searches.timed == ["equal"]
    assert searches.start("fast", "equal") == began
    assert searches.timed == []


def test_other_jobs_do_not_change_a_search_that_has_begun(searches: Searches) -> None:
    began = searches.start("fast", jobs=2)
    searches.begin_trial()
    assert searches.start("fast", jobs=1) == began
    assert searches.record()["epochs"] == 1200


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"minutes": 10, "epochs": 30, "seconds": [1]}'])
def test_a_record_that_cannot_be_read_is_made_again(searches: Searches, content: str) -> None:
    (searches.out / "budget.json").write_text(content)
    assert searches.start("fast").epochs > 500
    assert searches.timed == ["fast"]
