"""What a run will need."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import torch

from richkd.core.types import Output
from richkd.pipeline.assemble import assemble
from richkd.pipeline.missing_outputs import MissingOutputs
from richkd.teachers.vision import VisionTeacher
from richkd.training.forecast import Forecast, measure_forecast
from richkd.training.measured_steps import STEPS, MeasuredSteps, _reading
from tests.fixtures import World

SLOW = 0.05


def test_the_rows() -> None:
    measured = MeasuredSteps(20, 64, seconds=0.1, computing=0.3, evaluating=0.001, peak_bytes=1_310_000_000)
    needs = Forecast(measured, MissingOutputs(1000, 4e8), 3665, 20, 300_000_000, 41_000_000, 30_000_000_000)
    assert dict(needs.rows()) == {
        "speed": "640 images/s (20 steps measured); 160 images/s in 1,000 steps that compute teacher outputs",
        "memory": "1.31 GB at most in these steps; 300 MB for images, weights, optimizer and states of terms",
        "disk": "41 MB for the run, 400 MB for teacher outputs; 30 GB are free",
        "time": "about 1:01:05 for training and 0:20 for evaluations",
    }
    assert needs.warning() is None


def test_a_disk_that_is_too_small_is_said() -> None:
    measured = MeasuredSteps(20, 64, 0.1, 0.0, 0.001, 0)
    needs = Forecast(measured, MissingOutputs(0, 6e9), 60, 0, 10, 1_000_000_000, 5_000_000_000)
    assert needs.warning() == "warning: the run needs about 7 GB of disk, and 5 GB are free"


def test_a_step_always_takes_time() -> None:
    assert _reading([], [0.5, 0.6, 0.4], computing=0.7) == pytest.approx(0.05)
    assert _reading([], [0.5, 0.6, 0.4], computing=0.2) == pytest.approx(0.3)
    assert _reading([0.1], [9.0], computing=0.2) == 0.1


def slow_teacher(monkeypatch: pytest.MonkeyPatch) -> None:
    """Computing outputs takes 50 ms longer."""
    outputs = VisionTeacher.outputs

    def slow(self: VisionTeacher, *arguments: Any, **options: Any) -> Output:
        time.sleep(SLOW)
        return outputs(self, *arguments, **options)

    monkeypatch.setattr(VisionTeacher, "outputs", slow)


def test_computing_is_measured_apart_from_reading(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow_teacher(monkeypatch)
    views = {"augment__policy": "random-resized-crop", "augment__num_views": 2}
    changes: dict[str, Any] = {"method__name": "kd", "train__epochs": 10, **views}
    config = world.config(tmp_path / "run", cache__dir=tmp_path / "cache", **changes)
    needs = measure_forecast(assemble(config, torch.device("cpu")))
    assert needs.measured.steps == STEPS
    assert needs.measured.computing == pytest.approx(SLOW, rel=0.5)
    assert needs.measured.seconds < SLOW
    # Two of ten epochs compute.
    assert needs.training_seconds == pytest.approx(40 * needs.measured.seconds + 8 * needs.measured.computing)
    alone = measure_forecast(assemble(world.config(tmp_path / "run", **changes), torch.device("cpu")))
    assert alone.measured.computing == 0
    assert alone.measured.seconds > SLOW
    assert not (tmp_path / "run").exists()


def test_the_disk_of_a_folder_whose_name_is_too_long(world: World, tmp_path: Path) -> None:
    config = world.config(tmp_path / ("x" * 300), method__name="ce", train__epochs=1)
    assert measure_forecast(assemble(config, torch.device("cpu"))).free_bytes > 0


def test_a_short_run_is_measured_as_a_whole(world: World, tmp_path: Path) -> None:
    config = world.config(tmp_path / "run", method__name="ce", train__epochs=1)
    needs = measure_forecast(assemble(config, torch.device("cpu")))
    assert needs.measured.steps == 2, "four steps, of which the first two are not measured"
    assert needs.measured.evaluating > 0
    assert needs.measured.peak_bytes > 50_000_000
    assert needs.free_bytes > 0
