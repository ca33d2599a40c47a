"""Trackers: missing packages are found early, and failures of servers do not end a run."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from richkd.compare.run import compare as run_compare
from richkd.core.errors import ConfigError
from richkd.core.interrupt import Interrupted
from richkd.core.terminal import Terminal
from richkd.training.check import check_run
from richkd.training.run import distill, teach_folds
from richkd.training.run_folder import RunFolder
from richkd.training.trackers import refuse_missing_trackers
from tests.compare.plans import content, write
from tests.fixtures import STEPS, World, refusal
from tests.training.test_resume import stop_after

# Packages with the functions that accelerate calls; each call is a line of CALLS.
WRITE = """
import json, os
def say(*words):
    with open(os.environ["CALLS"], "a") as file:
        file.write(json.dumps(words, default=str) + "\\n")
    if os.environ.get("FAILS") == words[0]:
        raise ConnectionError("no server")
"""
WANDB = """
class Run:
    def log(self, values, step=None, **options): say("log", values, step)
    def finish(self): say("finish")
    def define_metric(self, *words, **options): pass
config = {}
run = None
def init(**options):
    global run
    say("init", options, os.environ.get("WANDB_MODE"))
    run = Run()
    return run
def finish(): say("finish")
"""
MLFLOW = """
class _Found:
    experiment_id = "7"
def search_experiments(**options): return []
def create_experiment(**options):
    say("experiment", options)
    return "7"
def start_run(**options):
    say("init", options)
    return object()
def log_metrics(values, step=None, **options): say("log", values, step)
def end_run(): say("finish")
"""
PACKAGES = {"wandb": WANDB, "trackio": WANDB, "mlflow": MLFLOW}
Install = Callable[..., Callable[[], list[list[Any]]]]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Makes a package importable; the result reads the calls of its functions."""
    calls = tmp_path / "calls"

    def make(name: str, fails: str = "") -> Callable[[], list[list[Any]]]:
        folder = tmp_path / "packages" / name
        folder.mkdir(parents=True)
        (folder / "__init__.py").write_text(WRITE + PACKAGES[name])
        monkeypatch.syspath_prepend(str(folder.parent))
        monkeypatch.delitem(sys.modules, name, raising=False)
        monkeypatch.setenv("CALLS", str(calls))
        monkeypatch.setenv("FAILS", fails)
        return lambda: [json.loads(line) for line in calls.read_text().splitlines()]

    yield make
    for name in PACKAGES:
        sys.modules.pop(name, None)


def plain(**changes: Any) -> dict[str, Any]:
    return {"method__name": "ce", "train__epochs": 2, **changes}


@pytest.mark.parametrize("name", list(PACKAGES))
def test_a_missing_package_is_found_before_anything_is_done(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda asked: None if asked == name else object())
    out = tmp_path / "run"
    config = world.config(out, **plain(train__trackers=["tensorboard", name]))
    for act in (lambda: distill(config, quiet=True), lambda: teach_folds(config, 2, quiet=True)):
        message = str(refusal(act))
        assert f"pip install {name}" in message
        assert "train.trackers" in message
    with pytest.raises(ConfigError, match=f"pip install {name}"):
        check_run(config, Terminal(quiet=True))
    assert not out.exists()


def test_a_plan_with_a_missing_package_is_refused(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = content(world, seeds=[0])
    plan["base"]["train.trackers"] = ["wandb"]
    find = importlib.util.find_spec
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name, *more: None if name == "wandb" else find(name, *more)
    )
    message = str(refusal(run_compare, write(tmp_path, plan), out=tmp_path / "out", check_only=True))
    assert message.count("pip install wandb") == 1


@pytest.mark.parametrize("name", list(PACKAGES))
def test_each_tracker_gets_the_figures_of_each_epoch(
    world: World, tmp_path: Path, install: Install, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    calls = install(name)
    out = tmp_path / "small"
    run = distill(world.config(out, **plain(train__trackers=[name, name])), quiet=True)
    kinds = [call[0] for call in calls()]
    assert kinds.count("init") == 1
    assert kinds[-1] == "finish"
    logged = [call[1:] for call in calls() if call[0] == "log"]
    recorded = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    assert [step for _, step in logged] == [0, 1]
    for (values, _), record in zip(logged, recorded, strict=True):
        assert values["train/ce"] == record["train/ce"]
        assert values["val/top1"] == record["val/top1"]
    options = next(call[1] for call in calls() if call[0] == "init")
    assert "small" in (options.get("name"), options.get("run_name"))
    projects = [
        call[1].get("project", call[1].get("name")) for call in calls() if call[0] in ("init", "experiment")
    ]
    assert "richkd" in projects
    if name == "wandb":
        assert next(call for call in calls() if call[0] == "init")[2] == "offline"


@pytest.mark.parametrize("fails", ["log", "finish"])
def test_a_server_that_fails_later_costs_a_warning_only(
    world: World, tmp_path: Path, install: Install, capsys: pytest.CaptureFixture[str], fails: str
) -> None:
    calls = install("wandb", fails=fails)
    out = tmp_path / "run"
    distill(world.config(out, **plain(train__trackers=["wandb", "tensorboard"])))
    assert (
        capsys.readouterr().out.count("warning: tracker wandb is left out from now on (ConnectionError") == 1
    )
    assert [call[0] for call in calls()].count(fails) == 1
    # The other tracker, and the result, are not affected.
    assert list((out / "events").rglob("events.out.tfevents.*"))
    distill(world.config(tmp_path / "whole", **plain(train__trackers=[])), quiet=True)
    for name in ("metrics.jsonl", "student/model.safetensors"):
        assert (out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert not (tmp_path / "whole" / "events").exists()


def test_a_tracker_that_cannot_start_is_an_error_that_leaves_the_folder_free(
    world: World, tmp_path: Path, install: Install
) -> None:
    calls = install("wandb", fails="init")
    out = tmp_path / "run"
    config = world.config(out, **plain(train__trackers=["wandb"]))
    message = str(refusal(distill, config, quiet=True))
    assert "ConnectionError: no server" in message
    assert "WANDB_MODE=offline" in message
    assert len(calls()) == 1
    # The same command begins, once the reason is gone.
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FAILS", "")
        distill(config, quiet=True)
    assert RunFolder(out).summary()


def test_a_resumed_run_may_have_other_trackers(
    world: World, tmp_path: Path, install: Install, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = install("trackio")
    out = tmp_path / "run"
    with monkeypatch.context() as patched:
        stop_after(patched, STEPS + 1)
        with pytest.raises(Interrupted):
            distill(world.config(out, **plain()), quiet=True)
    distill(world.config(out, **plain(train__trackers=["trackio"])), resume=True, quiet=True)
    assert [call[2] for call in calls() if call[0] == "log"] == [1]


def test_an_accelerate_that_does_not_know_a_tracker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    monkeypatch.setattr("richkd.training.trackers.LOGGER_TYPE_TO_CLASS", {"wandb": object})
    refuse_missing_trackers(["wandb"])
    assert "pip install --upgrade accelerate" in str(refusal(refuse_missing_trackers, ["trackio"]))
