"""Runs that end earlier or later than they were planned."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from richkd.config.schema import OptimConfig
from richkd.core.errors import CheckpointError
from richkd.core.interrupt import Interrupted
from richkd.export.student import load_student
from richkd.training.checkpoint import load_checkpoint
from richkd.training.plan import plan_again
from richkd.training.run import distill, teach_folds
from richkd.training.run_folder import read_lines
from richkd.training.schedule import learning_rate
from tests.fixtures import STEPS, World, refusal
from tests.training.test_resume import assert_same, stop_after

COSINE: dict[str, Any] = {"method__name": "ce", "optim__schedule": "cosine"}


def stopped(world: World, out: Path, steps: int, **changes: Any) -> Path:
    with pytest.MonkeyPatch.context() as monkeypatch:
        stop_after(monkeypatch, steps)
        with pytest.raises(Interrupted):
            distill(world.config(out, **changes), quiet=True)
    return out


def rates(run: Path) -> list[float]:
    """The learning rate of the last step of each epoch."""
    return [line["lr"] for line in read_lines(run / "metrics.jsonl")]


def test_a_longer_run_says_so_and_has_the_rates_of_both_plans(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = stopped(world, tmp_path / "run", STEPS, train__epochs=2, **COSINE)
    capsys.readouterr()
    config = world.config(run, train__epochs=4, **COSINE)
    summary = distill(config, resume=True).summary
    out = capsys.readouterr().out
    assert "epochs: 2 then 4, from step 4 (1 epoch done)" in out
    assert "not that of a new run of 4 epochs" in out
    before = learning_rate(config.optim, STEPS, STEPS, 2)
    after = learning_rate(config.optim, STEPS, STEPS, 4)
    assert f"{after:.4g} (so far planned: {before:.4g})" in out
    assert (summary["epochs"], summary["planned_epochs"]) == (4, "2 then 4")
    planned = [learning_rate(config.optim, STEPS - 1, STEPS, 2)]
    planned += [learning_rate(config.optim, epoch * STEPS - 1, STEPS, 4) for epoch in (2, 3, 4)]
    assert rates(run) == planned
    assert "2 then 4 epochs" in (run / "student" / "README.md").read_text()


def test_a_longer_run_that_is_stopped_goes_on_bit_for_bit(world: World, tmp_path: Path) -> None:
    longer = {"train__epochs": 4, **COSINE}
    for name in ("whole", "run"):
        stopped(world, tmp_path / name, STEPS + 1, train__epochs=2, **COSINE)
    distill(world.config(tmp_path / "whole", **longer), resume=True, quiet=True)
    for steps in (STEPS + 2, 3 * STEPS):
        with pytest.MonkeyPatch.context() as monkeypatch:
            stop_after(monkeypatch, steps)
            with pytest.raises(Interrupted):
                distill(world.config(tmp_path / "run", **longer), resume=True, quiet=True)
    summary = distill(world.config(tmp_path / "run", **longer), resume=True, quiet=True).summary
    assert_same(tmp_path / "run", tmp_path / "whole")
    assert summary["planned_epochs"] == "2 then 4"


def test_with_the_same_rates_a_longer_run_is_a_new_run_of_that_length(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flat = {"method__name": "ce", "optim__milestones": "[]"}
    distill(world.config(tmp_path / "new", train__epochs=3, **flat), quiet=True)
    run = tmp_path / "run"
    distill(world.config(run, train__epochs=2, **flat), quiet=True)
    capsys.readouterr()
    distill(world.config(run, train__epochs=3, **flat), resume=True)
    assert "A new run of 3 epochs has the same learning rates." in capsys.readouterr().out
    for name in ("metrics.jsonl", "student/model.safetensors"):
        assert (run / name).read_bytes() == (tmp_path / "new" / name).read_bytes()


@pytest.mark.parametrize("steps", [2 * STEPS, 2 * STEPS - 1])
def test_a_run_can_end_early(world: World, tmp_path: Path, steps: int) -> None:
    run = stopped(world, tmp_path / "run", steps, train__epochs=5, **COSINE)
    summary = distill(world.config(run, train__epochs=2, **COSINE), resume=True, quiet=True).summary
    assert (summary["steps"], summary["planned_epochs"]) == (2 * STEPS, "5 then 2")
    assert (run / "student" / "model.safetensors").exists()
    assert len(read_lines(run / "metrics.jsonl")) == 2


def test_fewer_epochs_than_done_are_refused_and_nothing_changes(world: World, tmp_path: Path) -> None:
    run = stopped(world, tmp_path / "run", 2 * STEPS + 1, train__epochs=5, **COSINE)
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    error = refusal(distill, world.config(run, train__epochs=2, **COSINE), resume=True, quiet=True)
    assert isinstance(error, CheckpointError)
    assert "train.epochs 2" in error.rule
    assert "2 epochs done, and is in epoch 3" in str(error.got)
    assert "--epochs 3" in str(error.fix)
    assert "--checkpoint best" in str(error.fix)
    assert {path: path.read_bytes() for path in before} == before


def test_an_unchanged_length_leaves_no_trace(world: World, tmp_path: Path) -> None:
    run = stopped(world, tmp_path / "run", STEPS, train__epochs=2, **COSINE)
    summary = distill(world.config(run, train__epochs=2, **COSINE), resume=True, quiet=True).summary
    assert "planned_epochs" not in summary
    assert load_checkpoint(run / "checkpoints" / "last.ckpt")[0].scalars["plans"] == [[0, 2]]


def test_finished_teachers_of_folds_can_be_lengthened(world: World, tmp_path: Path) -> None:
    for epochs in (1, 2):
        config = world.config(tmp_path / "folds", train__epochs=epochs, method__name="ce")
        runs = teach_folds(config, 2, resume=epochs > 1, quiet=True)
        assert [run.summary["epochs"] for run in runs] == [epochs, epochs]
    summaries = [json.loads((run.folder / "summary.json").read_text()) for run in runs]
    assert [summary["planned_epochs"] for summary in summaries] == ["1 then 2"] * 2


@pytest.mark.parametrize("schedule", ["cosine", "step"])
def test_the_largest_difference_is_that_of_all_steps_made(schedule: Any) -> None:
    optim = OptimConfig(lr=0.3, schedule=schedule, warmup_epochs=0.5)
    plans, message = plan_again([[0, 8]], 28, 4, 16, optim)
    plans, message = plan_again(plans, 40, 4, 12, optim)
    assert plans == [[0, 8], [28, 16], [40, 12]]
    made = [learning_rate(optim, step, 4, 8 if step < 28 else 16) for step in range(40)]
    new = [learning_rate(optim, step, 4, 12) for step in range(40)]
    largest = max(abs(a - b) for a, b in zip(made, new, strict=True))
    match = re.search(r"differ by up to (\S+) in", str(message))
    assert match
    assert float(match[1]) == pytest.approx(largest, rel=1e-3)


def test_the_old_student_of_a_run_that_is_being_lengthened_says_so(world: World, tmp_path: Path) -> None:
    run = tmp_path / "run"
    distill(world.config(run, train__epochs=1, **COSINE), quiet=True)
    assert load_student(run).note is None
    with pytest.MonkeyPatch.context() as monkeypatch:
        stop_after(monkeypatch, STEPS + 1)
        with pytest.raises(Interrupted):
            distill(world.config(run, train__epochs=2, **COSINE), resume=True, quiet=True)
    assert "after 1 epoch; the run is being resumed for 2" in str(load_student(run).note)
    assert "after epoch 1 and 1 of 4 steps" in str(load_student(run, "last").note)
    distill(world.config(run, train__epochs=2, **COSINE), resume=True, quiet=True)
    assert load_student(run).note is None
