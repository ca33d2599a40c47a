"""The head of a recipe says what was trained."""

from __future__ import annotations

from pathlib import Path

import pytest

from richkd.config.schema import Config
from richkd.tune.halving import Halving
from richkd.tune.pages import write_pages
from richkd.tune.results import Figures, SearchResult
from richkd.tune.space import Choices
from richkd.tune.study import TrialRecord
from richkd.tune.trials import SearchedMethod

ENTRY = Choices("optim.lr", "plan", {"0.1": {"optim.lr": 0.1}, "0.2": {"optim.lr": 0.2}})
BOTH = {2: 0.5, 7: 0.6}


def record(index: int, first: int, values: dict[int, float], state: str = "finished") -> TrialRecord:
    return TrialRecord(index, first, {"optim.lr": "0.1" if first == 0 else "0.2"}, values, state)


@pytest.mark.parametrize(
    ("records", "words"),
    [
        ([record(n, 0, BOTH) for n in range(3)], "3 trials (1 distinct), 9 epochs of training;"),
        ([record(0, 0, BOTH), record(1, 1, {2: 0.4}, "stopped")], "2 trials, 11 epochs of training;"),
        (
            [record(0, 0, BOTH), record(1, 1, {}, "failed"), record(2, 1, {}, "failed")],
            "3 trials (2 distinct, 2 failed), 9 epochs of training;",
        ),
    ],
)
def test_the_recipe_says_what_was_trained(tmp_path: Path, records: list[TrialRecord], words: str) -> None:
    config = Config.model_validate({"data": {"path": "."}, "student": {"name": "resnet18"}})
    figures = {
        (one.index, epochs): Figures(top1, 1.0) for one in records for epochs, top1 in one.values.items()
    }
    method = SearchedMethod("ce", (ENTRY,), {"optim.lr": "0.1"}, config)
    result = SearchResult(method, Halving((2, 7), 1), tuple(records), records[0], config, figures)
    write_pages("plan.yaml", [result], "top1", 12, tmp_path)
    assert f"# {words} chosen by top-1 of 12 validation images." in (tmp_path / "ce.yaml").read_text()
