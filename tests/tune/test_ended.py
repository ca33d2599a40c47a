"""Runs that a signal ended: they are no failed trials, and the same command does them again."""

from __future__ import annotations

import json
import os
import signal
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest

from richkd.compare.queue import run_queue
from richkd.compare.worker import Job, Outcome
from richkd.core.errors import ProcessError
from richkd.tune.run import TuneResult
from tests.fixtures import World, refusal
from tests.tune.plans import of_labels, run, write

RATES = {0.02: "finished", 0.01: "killed", 0.03: "stopped", 0.04: "diverged"}


def works(job: Job, connection: Connection) -> None:
    """Stands in for training: by its learning rate, a run is ended once, diverges, or finishes."""
    starts = job.log.with_suffix(".starts")
    starts.parent.mkdir(exist_ok=True)
    with starts.open("a") as file:
        file.write("x")
    is_first = len(starts.read_text()) == 1 and job.config.train.epochs == 1
    fate = RATES[job.config.optim.lr]
    if fate == "killed" and is_first:
        os.kill(os.getpid(), signal.SIGKILL)
    if fate == "stopped" and is_first:
        connection.send(Outcome("stopped"))
        return
    if fate == "diverged":
        connection.send(Outcome("failed", "Loss 'ce' must be finite"))
        return
    figures = {"top1": 1 - job.config.optim.lr, "calibrated": {"nll": 1.0}}
    summary = {"epochs": job.config.train.epochs, "splits": {"val": figures}}
    job.config.out.mkdir(parents=True)
    (job.config.out / "summary.json").write_text(json.dumps(summary))
    connection.send(Outcome("finished"))


@pytest.fixture
def no_training(monkeypatch: pytest.MonkeyPatch) -> None:
    def queue(*args: Any, **options: Any) -> dict[str, Outcome]:
        return run_queue(*args, **{**options, "work": works, "start": "fork"})

    monkeypatch.setattr("richkd.tune.run.run_queue", queue)


def plan(world: World, folder: Path, rates: list[float], **changes: Any) -> Path:
    return write(folder, of_labels(world, space={"optim.lr": rates}, **changes))


def starts(out: Path) -> dict[str, int]:
    return {file.stem: len(file.read_text()) for file in (out / "logs").glob("*.starts")}


def states(result: TuneResult) -> dict[str, set[str]]:
    (method,) = result.methods
    by_rate: dict[str, set[str]] = {}
    for record in method.records:
        by_rate.setdefault(record.point["optim.lr"], set()).add(record.state)
    return by_rate


@pytest.mark.usefixtures("no_training")
@pytest.mark.parametrize(
    ("rate", "reason"), [(0.01, "SIGKILL, as when the memory"), (0.03, "stopped by a signal")]
)
def test_a_run_that_a_signal_ended_goes_on_with_the_same_command(
    world: World, tmp_path: Path, rate: float, reason: str
) -> None:
    path, out = plan(world, tmp_path, [0.02, rate], epochs=1, budget={"epochs": 6}), tmp_path / "out"
    error = refusal(run, path, out)
    assert isinstance(error, ProcessError)
    assert reason in str(error.got)
    assert "ce-t" in str(error.got)
    assert "repeat the command" in str(error.fix)
    by_rate = states(run(path, out))
    assert by_rate == {"0.02": {"finished"}, str(rate): {"finished"}}
    assert sorted(starts(out).values()) == [1, 2], "the finished run is not done again"


@pytest.mark.usefixtures("no_training")
def test_a_run_that_diverged_stays_failed_beside_one_that_was_killed(world: World, tmp_path: Path) -> None:
    # Nine trials in one queue.
    path = plan(world, tmp_path, [0.02, 0.01, 0.04], epochs=9, budget={"epochs": 39})
    out = tmp_path / "out"
    assert "SIGKILL" in str(refusal(run, path, out).got)
    before = starts(out)
    assert list(before.values()) == [1, 1, 1]
    by_rate = states(run(path, out))
    assert by_rate["0.04"] == {"failed"}
    assert "failed" not in by_rate["0.01"]
    after = starts(out)
    assert sorted(after[name] for name in before) == [1, 1, 2], "only the killed run is done again"


@pytest.mark.usefixtures("no_training")
def test_a_timed_run_that_was_killed_is_no_mistake_of_the_settings(world: World, tmp_path: Path) -> None:
    changes: dict[str, Any] = {"space": {"optim.lr": [0.01, 0.02]}, "budget": {"minutes": 1}}
    changes["base"] = of_labels(world)["base"] | {"optim": {"lr": 0.01}}
    error = refusal(run, write(tmp_path, of_labels(world, **changes)), tmp_path / "out")
    assert isinstance(error, ProcessError)
    assert "ce-timed-e1" in str(error.got)
