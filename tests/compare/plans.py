"""Plans of the small world, and the command in this process or in one that can be killed."""

from __future__ import annotations

import multiprocessing
import time
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch
import yaml

from richkd.compare.layers import read_layers
from richkd.compare.plan import read_plan
from richkd.compare.run import Comparison, compare
from richkd.compare.runs import PlannedRun, planned_runs
from richkd.core.interrupt import Interrupted
from richkd.core.terminal import Terminal
from tests.fixtures import SIZE, World


def content(world: World, **changes: Any) -> dict[str, Any]:
    """A plan of two methods and two seeds; ``changes`` replace parts, and None removes one."""
    plan: dict[str, Any] = {
        "base": {
            "data": {"path": str(world.images), "val_fraction": 0.25},
            "student": {"name": "cifar_resnet8", "size": SIZE},
            "teachers": [{"name": f"local-dir:{world.teacher}"}],
            "clip": {"name": f"outputs:{world.clip}"},
            "optim": {"lr": 0.02},
            "train": {"batch_size": 8, "precision": "fp32", "teacher_precision": "fp32", "workers": 0},
        },
        "methods": {"kd": None, "richkd": {"method.variant": "l"}},
        "controls": ["shuffled"],
        "seeds": [0, 1],
        "budgets": [1],
    }
    return {name: value for name, value in (plan | changes).items() if value is not None}


def write(folder: Path, plan: dict[str, Any]) -> Path:
    path = folder / "plan.yaml"
    path.write_text(yaml.safe_dump(plan, sort_keys=False), encoding="utf-8")
    return path


def runs_of(path: Path) -> list[PlannedRun]:
    source = read_plan(path)
    return planned_runs(source, read_layers(source), path.parent / "out")


def run(path: Path, out: Path, *, jobs: int = 2) -> Comparison:
    """The command in this process."""
    result = compare(path, out=out, jobs=jobs, console=Terminal(quiet=True))
    assert result is not None
    return result


def in_child(path: Path, out: Path, *, jobs: int = 2) -> BaseProcess:
    """Start the command in a process of its own, which ends with the status of the command line.

    The process is forked from a server without threads. A fork of the process of the tests can wait for
    ever for a lock that a thread of a library held.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["richkd.training.run", "richkd.compare.logits"])
    process = context.Process(target=_command, args=(path, out, jobs))
    process.start()
    return process


def _command(path: Path, out: Path, jobs: int) -> None:
    # A process that is forked after several threads computed waits for them for ever.
    torch.set_num_threads(1)
    try:
        compare(path, out=out, jobs=jobs, console=Terminal(quiet=True), start="fork")
    except Interrupted:
        raise SystemExit(130) from None


def leftovers(folder: Path, seconds: float = 60.0) -> list[Path]:
    """Locks and temporary files that remain; a process of a killed comparison may still be about to end."""
    deadline = time.monotonic() + seconds
    while True:
        files = [file for file in folder.rglob("*") if file.suffix == ".tmp" or file.name == "richkd.lock"]
        if not files or time.monotonic() > deadline:
            return files
        time.sleep(0.1)
