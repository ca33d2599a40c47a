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
    layer = layer_of([rate, temperature, both], {"optim.lr": 0.052345678, "target": "half"})
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
        ({"low": 0.1, "high": 0.9, "step": 0.1}, 0.3, 0.3),
        ({"low": 0.1, "high": 0.9, "step": 0.1}, 0.7, 0.7),
        ({"low": 0.1, "high": 0.9, "step": 0.1}, 0.75, None),
        ({"low": 0.01, "high": 0.9}, 0.03125, 0.03125),
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


def test_a_setting_of_whole_numbers_gets_whole_numbers() -> None:
    sizes, terms = read(
        {
            "train.batch_size": {"low": 8, "high": 30},
            "objective.crd.num_negatives": {"low": 16, "high": 4096, "log": True},
        }
    )
    for entry in (sizes, terms):
        assert type(entry.distribution).__name__ == "IntDistribution"
    assert sizes.value_of({"train.batch_size": 9}) == 9
    error = str(refusal(read, {"train.batch_size": {"low": 8.5, "high": 30}}))
    assert "whole numbers" in error


def test_numbers_that_yaml_reads_as_text() -> None:
    (rate,) = read({"optim.lr": {"low": "1e-3", "high": 0.1, "log": True}})
    assert (rate.low, rate.high) == (0.001, 0.1)


@pytest.mark.parametrize("name", ["data.val_fraction", "data.path", "data.labels_per_class"])
def test_all_trials_are_judged_by_the_same_images(name: str) -> None:
    assert "same images" in str(refusal(read, {name: [1, 2]}))


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
        {"low": 1, "high": 2, "step": 5},
        {"low": 1, "high": 2, "step": "one"},
        {"low": "few", "high": 2},
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


@pytest.mark.parametrize(
    ("entry", "value", "expected"),
    [
        ({"low": 0.1, "high": 0.9, "step": 0.0125}, 0.1125, 0.1125),
        ({"low": 0.1, "high": 0.9, "step": 0.1}, 0.1 + 0.1 * 2, 0.3),
        ({"low": 0.01, "high": 0.1}, 0.03125, 0.03125),
        ({"low": 0.01, "high": 0.1, "log": True}, 0.031252819462739, 0.0313),
    ],
)
def test_steps_and_the_plans_own_numbers_stay_as_they_are(entry: Any, value: float, expected: float) -> None:
    (one,) = read({"optim.lr": entry})
    assert one.settings(value) == {"optim.lr": expected}


@pytest.mark.parametrize(
    ("entry", "value", "expected"),
    [
        ({"low": 0.9, "high": 0.9999}, 0.99987654, 0.9999),
        ({"low": 0.0012345, "high": 0.1}, 0.00123450987, 0.0012345),
        ({"low": 0.0012345, "high": 0.1, "log": True}, 0.00123450987, 0.0012345),
        ({"low": 0, "high": 1}, 0.99987654, 1.0),
    ],
)
def test_rounded_numbers_stay_in_the_range(entry: Any, value: float, expected: float) -> None:
    (one,) = read({"optim.momentum": entry})
    assert one.settings(value) == {"optim.momentum": expected}
    assert type(one.settings(value)["optim.momentum"]) is float
