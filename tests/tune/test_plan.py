"""Plans of searches: defaults, and mistakes that are found before the first run."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from richkd.compare.layers import read_layers
from richkd.core.terminal import Terminal
from richkd.tune.plan import read_tune_plan
from richkd.tune.run import tune
from richkd.tune.study import TrialRecord
from richkd.tune.trials import SearchedMethod, Trials
from tests.fixtures import World, refusal
from tests.tune.plans import content, write


def methods_of(path: Path) -> dict[str, SearchedMethod]:
    source = read_tune_plan(path)
    trials = Trials(source, read_layers(source.source), path.parent / "out")
    return {method.name: method for method in trials.methods()}


def searched(method: SearchedMethod) -> list[str]:
    return [entry.name for entry in method.entries]


def test_methods_search_what_they_read(world: World, tmp_path: Path) -> None:
    space = {
        "optim.lr": {"low": 0.01, "high": 0.1},
        "objective.kd.temperature": [1, 3],
        "objective.dkd.beta": [2, 8],
        "fusion.preset": ["default", "paper"],
        "fusion.alpha": {"low": 0.1, "high": 0.9},
    }
    methods = {
        "kd": None,
        "dkd": None,
        "richkd": {"method.variant": "l"},
        "fixed": {"method": "kd", "optim.lr": 0.5},
    }
    by_name = methods_of(write(tmp_path, content(world, space=space, methods=methods)))
    assert searched(by_name["kd"]) == ["optim.lr", "objective.kd.temperature"]
    assert searched(by_name["dkd"]) == ["optim.lr", "objective.dkd.beta"]
    assert searched(by_name["richkd"]) == [
        "optim.lr",
        "objective.kd.temperature",
        "fusion.preset",
        "fusion.alpha",
    ]
    # A setting that the method gives itself is fixed.
    assert searched(by_name["fixed"]) == ["objective.kd.temperature"]
    assert by_name["kd"].first == {"optim.lr": 0.02, "objective.kd.temperature": "3"}
    assert by_name["richkd"].first["fusion.preset"] == "default"


@pytest.mark.parametrize(
    ("base", "entry", "expected"),
    [
        ({"optim.lr": 0.001}, {"optim.lr": ["1e-3", "1e-2"]}, "1e-3"),
        ({"optim.lr": "1e-2"}, {"optim.lr": ["1e-3", "1e-2"]}, "1e-2"),
        ({"objective.kd.weight": 0.1}, {"objective.kd.weight": ["5e-1", "1e-1"]}, "1e-1"),
        ({}, {"objective.kd.temperature": ["1e0", "3e0"]}, "3e0"),
        ({"optim.lr": 0.001}, {"optim.lr": ["1e-4", "1e-2"]}, None),
    ],
)
def test_the_plans_own_value_is_found_however_it_is_written(
    world: World, tmp_path: Path, base: dict[str, Any], entry: dict[str, Any], expected: str | None
) -> None:
    plan = content(world, space=entry, methods={"kd": None})
    del plan["base"]["optim"], plan["base"]["clip"]
    plan["base"] |= base
    (method,) = methods_of(write(tmp_path, plan)).values()
    (name,) = entry
    assert method.first.get(name) == expected
    assert method.outside == (() if expected else (name,))


def test_the_plans_own_teachers_are_found(world: World, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(world.teacher, other)
    choices = {
        "other": {"teachers": [{"name": f"local-dir:{other}"}]},
        "own": {"teachers": [{"name": f"local-dir:{world.teacher}"}]},
    }
    plan = content(world, space={"teacher": choices}, methods={"kd": None})
    del plan["base"]["clip"]
    path = write(tmp_path, plan)
    (method,) = methods_of(path).values()
    assert method.first == {"teacher": "own"}
    source = read_tune_plan(path)
    trials = Trials(source, read_layers(source.source), tmp_path / "out")
    assert trials.config("kd", method.entries, method.first) == method.config


def test_a_plan_without_a_space_searches_the_usual_settings(world: World, tmp_path: Path) -> None:
    methods = {"kd": None, "ce": None, "richkd": {"method.variant": "l"}}
    by_name = methods_of(write(tmp_path, content(world, space=None, methods=methods)))
    terms = ["objective.kd.weight", "objective.kd.temperature"]
    assert searched(by_name["ce"]) == ["optim.lr", "augment.mixup_alpha"]
    assert searched(by_name["kd"]) == ["optim.lr", "augment.mixup_alpha", *terms]
    assert searched(by_name["richkd"]) == [
        "optim.lr",
        "augment.mixup_alpha",
        *terms,
        "fusion",
        "fusion.entropy",
    ]
    for method in by_name.values():
        assert set(method.first) == set(searched(method)), "the settings of the plan are the first trial"


def test_the_usual_fusions_include_the_fitted_one_and_the_plans(world: World, tmp_path: Path) -> None:
    methods = {"kd": None, "richkd": {"method.variant": "l"}}
    plan = content(world, space=None, methods=methods)
    plan["base"]["fusion"] = {"alpha": 0.4}
    path = write(tmp_path, plan)
    source = read_tune_plan(path)
    trials = Trials(source, read_layers(source.source), tmp_path / "out")
    method = next(method for method in trials.methods() if method.name == "richkd")
    assert method.first["fusion"] == "default 0.4"
    fusions = {
        name: trials.config("richkd", method.entries, {**method.first, "fusion": name}).fusion
        for name in ("default", "default 0.4", "paper 0.7")
    }
    assert {name: fusion.alpha for name, fusion in fusions.items()} == {
        "default": None,
        "default 0.4": 0.4,
        "paper 0.7": 0.7,
    }


def test_points_become_settings(world: World, tmp_path: Path) -> None:
    path = write(tmp_path, content(world))
    source = read_tune_plan(path)
    trials = Trials(source, read_layers(source.source), tmp_path / "out")
    (method,) = trials.methods()
    run = trials.run(method, TrialRecord(5, 4, {"optim.lr": 0.012345678, "objective.kd.temperature": "4"}), 2)
    assert run.name == "richkd-t004-e2"
    assert (run.config.optim.lr, run.config.train.epochs) == (0.0123, 2)
    assert run.config.objective == {"kd": {"temperature": 4}}


@pytest.mark.parametrize("nats", [[0.5, 3.5], {"low": 0.5, "high": 3.5}])
def test_an_entropy_that_no_target_of_the_classes_has_is_refused_before_the_search(
    world: World, tmp_path: Path, nats: object
) -> None:
    space = {"optim.lr": [0.01, 0.02], "fusion.entropy": nats}
    path = write(tmp_path, content(world, space=space))
    error = refusal(tune, path, out=tmp_path / "out", check_only=True, console=Terminal(quiet=True))
    assert "fusion.entropy" in error.rule
    assert "3.5" in str(error)
    assert "method 'richkd'" in error.rule
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"budget": {}}, ["budget must be a number of epochs or of minutes", "none"]),
        ({"budget": {"epochs": 3, "minutes": 2}}, ["budget must be", "both"]),
        ({"budget": {"minutes": 0}}, ["budget"]),
        ({"budget": {"minutes": float("nan")}}, ["budget"]),
        ({"budget": {"hours": 1}}, ["budget.hours"]),
        ({"budget": None}, ["must have the part 'budget'"]),
        ({"epochs": 0}, ["'epochs'"]),
        ({"epochs": 2.5}, ["'epochs'"]),
        ({"metric": "top5"}, ["'metric'"]),
        ({"methods": {}}, ["'methods'"]),
        ({"methods": {"kdd": None}}, ["'kdd'"]),
        ({"methods": {"a/b": {"method": "kd"}}}, ["a/b"]),
        ({"seeds": [0]}, ["no part 'seeds'"]),
        (
            {"space": {"optim.lr": [0.1, 0.2], "objective.dkd.beta": [1, 2]}},
            ["objective.dkd.beta", "no method reads"],
        ),
        ({"space": {"objective.dkd.beta": [1, 2]}}, ["reads none", "'richkd'"]),
        ({"space": {"optim.lr": [0.1, -1]}}, ["optim.lr", "greater than 0"]),
        ({"space": {"fusion.preset": ["default", "papr"]}}, ["papr"]),
        ({"base": {"train": {"epochs": 3}}}, ["train.epochs"]),
        (
            {"methods": {"richkd": {"method.variant": "l", "train.epochs": 7}}},
            [
                "'train.epochs' must not be given here (plan.yaml, line ",
                "train.epochs 7",
                "epochs: of the plan",
            ],
        ),
        (
            {"methods": {"richkd": {"method.variant": "l", "train": {"epochs": 3}}}},
            ["'train.epochs' must not"],
        ),
        (
            {"methods": {"a b": {"method": "kd"}, "A-b": {"method": "richkd"}}},
            ["same name", "'a b'", "'A-b'"],
        ),
        (
            {"methods": {"ce": None}, "space": {"optim.lr": [0.1, 0.2]}},
            ["'teachers'", "no effect in any run"],
        ),
        ({"base": Path("nowhere.yaml")}, ["nowhere.yaml"]),
    ],
)
def test_mistakes_are_named_with_their_place(
    world: World, tmp_path: Path, change: dict[str, Any], words: list[str]
) -> None:
    plan = content(world) | {k: str(v) if isinstance(v, Path) else v for k, v in change.items()}
    plan = {name: value for name, value in plan.items() if value is not None}
    error = str(refusal(methods_of, write(tmp_path, plan)))
    assert "plan.yaml" in error or "nowhere" in error or "same name" in error
    for word in words:
        assert word in error
