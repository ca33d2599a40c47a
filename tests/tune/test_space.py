"""Ranges and choices: what they mean, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest

from richkd.tune.space import Choices, Range, layer_of, read_space
from tests.fixtures import refusal


def read(space: dict[str, Any]) -> list[Any]:
    return read_space(space, lambda name: f"plan.yaml, {name}")


def test_the_three_forms() -> None:
    rate, temperature, both = read(
        {
            "optim.lr": {"low": 0.01, "high": 0.1, "log": True},
            "objective.kd.temperature": [1, 4.5],
            "target": {"teacher": {"fusion.alpha": 1}, "half": {"fusion": {"alpha": 0.5, "preset": "paper"}}},
        }
    )
    assert rate == Range("optim.lr", "plan.yaml, optim.lr", 0.01, 0.1, log=True)
    assert isinstance(temperature, Choices)
    assert temperature.options == {
        "1": {"objective.kd.temperature": 1},
        "4.5": {"objective.kd.temperature": 4.5},
    }
    assert both.options["half"] == {"fusion.alpha": 0.5, "fusion.preset": "paper"}
    layer = layer_of([rate, temperature, both], {"optim.lr": 0.0523456, "target": "half"})
    assert {name: given.value for name, given in layer.items()} == {
        "optim.lr": 0.0523,
        "fusion.alpha": 0.5,
        "fusion.preset": "paper",
    }
    assert {given.part for given in layer.values()} == {"space"}


@pytest.mark.parametrize(
    ("entry", "given", "expected"),
    [
        ({"low": 1, "high": 9, "step": 2}, 5, 5),
        ({"low": 1, "high": 9, "step": 2}, 4, None),
        ({"low": 1, "high": 9}, 9.5, None),
        ({"low": 1, "high": 9}, None, None),
        ({"low": 0.5, "high": 9}, 0.5, 0.5),
        ([1, 3], 3, "3"),
        ([1, 3], 2, None),
    ],
)
def test_the_point_of_given_settings(entry: Any, given: Any, expected: Any) -> None:
    (one,) = read({"optim.lr": entry})
    assert one.value_of({"optim.lr": given}) == expected


def test_whole_numbers_stay_whole() -> None:
    (steps,) = read({"train.grad_accum_steps": {"low": 1, "high": 5, "step": 2}})
    assert type(steps.distribution).__name__ == "IntDistribution"
    assert steps.settings(3) == {"train.grad_accum_steps": 3}


@pytest.mark.parametrize(
    "entry",
    [
        {"low": 1},
        {"low": 2, "high": 1},
        {"low": 1, "high": 1},
        {"low": 0, "high": 1, "log": True},
        {"low": 1, "high": 2, "log": True, "step": 0.5},
        {"low": 1, "high": 2, "log": "yes"},
        {"low": 1, "high": float("nan")},
        {"low": 1, "high": float("inf")},
        {"low": True, "high": 3},
        {"low": 1, "high": 2, "step": 0},
        {"low": 1, "high": 2, "steps": 1},
        [1],
        [1, 1],
        [],
        {},
        {"a": {"optim.lr": 1}},
        {"a": {"optim.lr": 1}, "b": {}},
        {"a": {"optim.lr": 1}, "b": 3},
        0.1,
        None,
        "log",
    ],
)
def test_other_entries_are_refused(entry: Any) -> None:
    error = str(refusal(read, {"optim.lr": entry}))
    assert "(plan.yaml, optim.lr)" in error
    assert "optim.lr" in error


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("optim.rate", "no setting 'optim.rate'"),
        ("train.seed", "seeds"),
        ("train.epochs", "numbers of epochs"),
        ("method.name", "methods"),
        ("out", "'out'"),
    ],
)
def test_settings_that_cannot_be_searched_are_refused(name: str, words: str) -> None:
    assert words in str(refusal(read, {name: [1, 2]}))


def test_all_mistakes_are_listed() -> None:
    assert "2 problems" in str(refusal(read, {"optim.lr": [1], "optim.rate": [1, 2]}))
