"""Plans of searches in the small world, and the command in this process or in one that can be killed."""

from __future__ import annotations

import multiprocessing
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import torch
import yaml

from richkd.core.interrupt import Interrupted
from richkd.core.terminal import Terminal
from richkd.tune.run import TuneResult, tune
from tests.compare.plans import content as comparison
from tests.fixtures import World


def content(world: World, **changes: Any) -> dict[str, Any]:
    """A plan of one method with two brackets of three short runs and one longer run."""
    plan: dict[str, Any] = {
        "base": comparison(world)["base"],
        "methods": {"richkd": {"method.variant": "l"}},
        "space": {
            "optim.lr": {"low": 0.002, "high": 0.2, "log": True},
            "objective.kd.temperature": [1, 2, 4],
        },
        "epochs": 3,
        "budget": {"epochs": 16},
    }
    return {name: value for name, value in (plan | changes).items() if value is not None}


def of_labels(world: World, **changes: Any) -> dict[str, Any]:
    """A plan of the method ``ce``, which reads no teacher."""
    base = comparison(world)["base"]
    for name in ("teachers", "clip"):
        del base[name]
    del base["train"]["teacher_precision"]
    return content(world, **{"base": base, "methods": {"ce": None}} | changes)


def write(folder: Path, plan: dict[str, Any]) -> Path:
    path = folder / "plan.yaml"
    path.write_text(yaml.safe_dump(plan, sort_keys=False), encoding="utf-8")
    return path


def run(path: Path, out: Path) -> TuneResult:
    """The command in this process."""
    result = tune(path, out=out, jobs=2, console=Terminal(quiet=True))
    assert result is not None
    return result


def in_child(path: Path, out: Path) -> BaseProcess:
    """Start the command in a process of its own, forked from a server without threads."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["richkd.training.run", "richkd.compare.logits"])
    process = context.Process(target=_command, args=(path, out))
    process.start()
    return process


def _command(path: Path, out: Path) -> None:
    # A process that is forked after several threads computed waits for them for ever.
    torch.set_num_threads(1)
    try:
        tune(path, out=out, jobs=2, console=Terminal(quiet=True), start="fork")
    except Interrupted:
        raise SystemExit(130) from None
