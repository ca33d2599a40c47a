"""The study: kills between any two operations, damaged files, and halving against an obvious version."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from richkd.core.errors import CheckpointError
from richkd.tune.halving import Halving
from richkd.tune.space import Choices, Range
from richkd.tune.study import MethodStudy, TrialRecord
from tests.fixtures import refusal

ENTRIES = [
    Range("optim.lr", "plan", 0.01, 1, log=True),
    Choices("t", "plan", {"1": {"objective.kd.temperature": 1}, "4": {"objective.kd.temperature": 4}}),
]
HALVING = Halving((1, 3, 9), 2)
FIRST = {"optim.lr": 0.5, "t": "4"}


def study(folder: Path, *, maximize: bool = True, seed: int = 0) -> MethodStudy:
    return MethodStudy(folder / "kd.jsonl", ENTRIES, FIRST, HALVING, maximize=maximize, seed=seed)


def figure(record: TrialRecord, epochs: int) -> float:
    """Best near a rate of 0.1, and better with time; different for all trials."""
    return 1 / (1 + abs(record.point["optim.lr"] - 0.1)) + 0.01 * epochs


def climb(folder: Path, again: bool, **options: Any) -> MethodStudy:
    """A whole search; with ``again`` the study is opened anew before every operation."""
    one = study(folder, **options)

    def current() -> MethodStudy:
        return study(folder, **options) if again else one

    for bracket in range(HALVING.brackets):
        for rung, epochs in enumerate(HALVING.rungs):
            for record in current().bracket(bracket):
                if record.state == "running":
                    current().report(record.index, epochs, figure(record, epochs))
            current().halve(bracket, rung)
    return current()


def test_the_first_trial_has_the_settings_of_the_plan_and_goes_to_the_end(tmp_path: Path) -> None:
    records = climb(tmp_path, again=False).records()
    assert records[0].point == FIRST
    assert records[0].state == "finished"
    assert len({record.point["optim.lr"] for record in records}) == 18


def test_a_search_that_is_opened_anew_before_every_step_is_the_same(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    assert climb(tmp_path / "a", again=False).records() == climb(tmp_path / "b", again=True).records()


@pytest.mark.parametrize("maximize", [True, False])
def test_the_best_third_of_a_bracket_goes_on(tmp_path: Path, maximize: bool) -> None:
    done = climb(tmp_path, again=False, maximize=maximize)
    for bracket in range(2):
        alive = done.records()[9 * bracket : 9 * bracket + 9]
        for rung, epochs in enumerate((3, 9)):
            before = HALVING.rungs[rung]
            ranked = sorted(alive, key=lambda record: figure(record, before), reverse=maximize)
            expected = {record.index for record in ranked[: len(ranked) // 3 or 1]} | (
                {0} if not bracket else set()
            )
            alive = [record for record in alive if epochs in record.values]
            assert {record.index for record in alive} == expected
            if not bracket and rung == 0:
                # The first trial goes on besides the third.
                alive = [record for record in alive if record.index in expected]


def test_later_trials_learn_from_earlier_ones(tmp_path: Path) -> None:
    records = climb(tmp_path, again=False).records()
    distance = [abs(record.point["optim.lr"] - 0.1) for record in records]
    assert sorted(distance[9:])[4] < sorted(distance[1:9])[4]


def test_another_seed_draws_other_trials(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    first, second = study(tmp_path / "a").bracket(0), study(tmp_path / "b", seed=1).bracket(0)
    assert first[0] == second[0]
    assert first[1] != second[1]


def test_every_kill_while_the_file_is_written_leaves_the_same_search(tmp_path: Path) -> None:
    (tmp_path / "whole").mkdir()
    expected = climb(tmp_path / "whole", again=False).records()
    content = (tmp_path / "whole" / "kd.jsonl").read_bytes()
    for cut in range(0, len(content), max(1, len(content) // 25)):
        folder = tmp_path / f"cut{cut}"
        folder.mkdir()
        (folder / "kd.jsonl").write_bytes(content[:cut])
        assert climb(folder, again=False).records() == expected


def test_a_damaged_file_is_refused_in_words(tmp_path: Path) -> None:
    study(tmp_path).bracket(0)
    path = tmp_path / "kd.jsonl"
    content = path.read_bytes()
    path.write_bytes(content[:40] + b"\xff" + content[41:])
    error = refusal(study, tmp_path)
    assert isinstance(error, CheckpointError)
    assert "kd.jsonl" in error.rule


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 1},
        {"maximize": False},
        {"entries": ENTRIES[:1]},
        {"halving": Halving((1, 3), 2)},
        {"first": {}},
    ],
)
def test_another_search_in_the_same_file_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    study(tmp_path).bracket(0)
    asked = {"entries": ENTRIES, "first": FIRST, "halving": HALVING, "maximize": True, "seed": 0} | change
    error = refusal(lambda: MethodStudy(tmp_path / "kd.jsonl", **asked))
    assert "same space" in error.rule


def test_a_search_may_get_more_brackets(tmp_path: Path) -> None:
    before = climb(tmp_path, again=False).records()
    longer = MethodStudy(tmp_path / "kd.jsonl", ENTRIES, FIRST, Halving((1, 3, 9), 3), maximize=True, seed=0)
    assert len(longer.bracket(2)) == 9
    assert longer.records()[:18] == before


def test_trials_with_equal_settings_are_known(tmp_path: Path) -> None:
    one = MethodStudy(tmp_path / "kd.jsonl", ENTRIES[1:], {}, HALVING, maximize=True, seed=0)
    records = one.bracket(0)
    for record in records:
        assert record.first == next(r.index for r in records if r.point == record.point)


def test_a_failed_trial_stops_and_is_not_the_best(tmp_path: Path) -> None:
    one = study(tmp_path, maximize=False)
    for record in one.bracket(0):
        if record.index in (0, 1):
            one.fail(record.index, "it is not finite")
        else:
            one.report(record.index, 1, float(record.index))
    one.halve(0, 0)
    states = [record.state for record in study(tmp_path, maximize=False).records()]
    assert states == ["failed", "failed", *["running"] * 3, *["stopped"] * 4]
    assert study(tmp_path, maximize=False).records()[1].reason == "it is not finite"
    assert one.best() is None


def test_equal_figures_mean_the_earlier_trial(tmp_path: Path) -> None:
    one = study(tmp_path)
    for rung, epochs in enumerate(HALVING.rungs):
        for record in one.bracket(0):
            if record.state == "running":
                one.report(record.index, epochs, 0.5)
        one.halve(0, rung)
    best = one.best()
    assert best is not None
    assert best.index == 0
    assert [record.index for record in one.records() if 3 in record.values] == [0, 1, 2]
