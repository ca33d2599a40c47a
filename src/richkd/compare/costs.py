"""What students cost: parameters, FLOPs and latency, measured once, and the seconds of training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from richkd.compare.runs import PlannedRun
from richkd.core.device import pick_device
from richkd.core.files import write_atomically
from richkd.core.json_text import to_json
from richkd.core.structured import read_json
from richkd.export.student import UNDESCRIBED, load_student
from richkd.metrics.cost import cost_of
from richkd.models.saved import CONFIG
from richkd.training.run_folder import RunFolder, read_lines

# Figures that depend on the speed of the machine are apart from those that do not.
FILE = "costs.json"
STUDENT = "student"
FIELDS = ("parameters", "flops", "latency_ms")
# Part of the keys, so that figures that were counted in another way are measured again.
COUNTED = "attention counted"


@dataclass(frozen=True)
class RunCost:
    """The cost of a run.

    Attributes:
        parameters: number of parameters of the student.
        flops: floating-point operations for one image.
        latency_ms: time of a forward pass for one image, in ms.
        seconds: seconds of training in all sessions, without validation and start.
    """

    parameters: int
    flops: int
    latency_ms: float
    seconds: float


def costs_of(runs: Sequence[PlannedRun], out: Path) -> dict[str, RunCost]:
    """The cost of each finished run; students of the same architecture are measured once.

    Raises:
        RichKDError: a student cannot be loaded, or the record cannot be written.
    """
    known = _recorded(out / FILE)
    measured: dict[str, dict[str, Any]] = {}
    for run in runs:
        key = _architecture(run)
        if key not in measured:
            measured[key] = known.get(key) or _measure(run)
    if measured != known:
        write_atomically(out / FILE, (to_json(measured, indent=1) + "\n").encode())
    return {
        run.name: RunCost(**measured[_architecture(run)], seconds=total_seconds(run.config.out))
        for run in runs
    }


def total_seconds(folder: Path) -> float:
    """Seconds of all epochs of a run, also of those before it was resumed."""
    return float(sum(line["seconds"] for line in read_lines(RunFolder(folder).timing)))


def _architecture(run: PlannedRun) -> str:
    """The network of a student as it was saved, because a loss may leave parts of its own in it."""
    try:
        saved = read_json(run.config.out / STUDENT / CONFIG)
        parts = {name: saved[name] for name in ("architecture", "model_args")}
        size = saved["pretrained_cfg"]["input_size"]
    except UNDESCRIBED:
        return run.name  # loading it says what is wrong
    return f"{to_json(parts)} for {size} on {pick_device(run.config.train.device)}, {COUNTED}"


def _measure(run: PlannedRun) -> dict[str, Any]:
    network = load_student(run.config.out / STUDENT).network
    cost = cost_of(network, pick_device(run.config.train.device))
    return {"parameters": cost.parameters, "flops": cost.flops, "latency_ms": cost.milliseconds[1]}


def _recorded(path: Path) -> dict[str, dict[str, Any]]:
    """Costs that were measured before; none if the file does not exist or has another form."""
    try:
        recorded = read_json(path)
        fits = all(set(cost) == set(FIELDS) for cost in recorded.values())
        return dict(recorded) if fits else {}
    except (OSError, ValueError, AttributeError, TypeError):
        return {}
