"""Every plan in recipes/plans and recipes/tune is valid, and its first lines have its command."""

from __future__ import annotations

from pathlib import Path

import pytest

from richkd.compare.layers import read_layers
from richkd.compare.plan import Source, read_plan
from richkd.compare.runs import first_runs_of, planned_runs
from richkd.tune.plan import read_tune_plan
from richkd.tune.trials import Trials
from tests.docs.blocks import ROOT
from tests.docs.test_code_blocks import command_lines, head_of

SEARCHES = sorted((ROOT / "recipes" / "tune").glob("*.yaml"))
PLANS = sorted((ROOT / "recipes" / "plans").glob("*.yaml"))


def source_of(plan: Path) -> Source:
    source = read_plan(plan)
    assert source.plan.out is not None
    return source


def test_there_are_plans() -> None:
    names = {plan.stem for plan in PLANS}
    assert {"caltech101-five", "caltech101-lite0", "cifar10-resnet20-ten", "whurs19-all"} <= names


@pytest.mark.parametrize("plan", PLANS, ids=lambda file: file.stem)
def test_the_settings_of_all_runs_can_be_combined(plan: Path) -> None:
    source = source_of(plan)
    runs = planned_runs(source, read_layers(source), source.plan.out or Path())
    assert {run.cell.epochs for run in runs} == set(source.plan.budgets)
    assert {run.first for run in first_runs_of(runs)} == set(source.plan.first)


@pytest.mark.parametrize("plan", PLANS, ids=lambda file: file.stem)
def test_the_head_has_the_command_and_the_folder_has_the_name(plan: Path) -> None:
    assert command_lines(head_of(plan)).splitlines()[-1] == f"richkd compare recipes/plans/{plan.name}"
    assert source_of(plan).plan.out == Path("runs") / plan.stem
    content = plan.read_text(encoding="utf-8")
    assert ("DATA" in head_of(plan)) == ("data/" in content), "who reads data says where they are"
    assert max(map(len, content.splitlines())) <= 120


@pytest.mark.parametrize("plan", SEARCHES, ids=lambda file: file.stem)
def test_searches_read_all_of_their_space(plan: Path) -> None:
    source = read_tune_plan(plan)
    trials = Trials(source, read_layers(source.source), Path("runs"))
    assert {entry.name for method in trials.methods() for entry in method.entries} == set(
        source.plan.space or {}
    )
    assert source.plan.out == Path("runs") / f"tune-{plan.stem}"
    assert command_lines(head_of(plan)) == f"richkd tune recipes/tune/{plan.name}"
