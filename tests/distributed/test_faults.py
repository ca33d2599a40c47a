"""One process that stops, fails or dies ends all of them, with its reason and without losing the run."""

from __future__ import annotations

import json
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.distributed.starts import Run, finished, free_port, lines, result, start, work, written
from tests.fixtures import World

SHORT: dict[str, Any] = {
    "train__batch_size": 7,
    "train__epochs": 2,
    "optim__lr": 0.002,
    "train__trackers": (),
}
PLAIN = {"student__name": "tests.fixtures:PlainNet"}
# The training split has 36 images.
STEPS = 5
SAME = ("metrics.jsonl", "checkpoints/last.ckpt", "student/model.safetensors")


@pytest.fixture(scope="module")
def agreed(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs whose processes stop together, and can go on with the next run."""
    folder = tmp_path_factory.mktemp("agreed")
    runs: list[Run] = [
        ("whole", SHORT, {}, "whole"),
        ("nan", SHORT | PLAIN, {"spies": {"nan": [1, 2]}}, "nan"),
        ("unreadable", SHORT, {"spies": {"unreadable": [1, 3]}}, "unreadable"),
        ("unreadable+", SHORT, {"resume": True}, "unreadable"),
        ("stopped", SHORT, {"spies": {"term": [1, 1]}}, "stopped"),
        ("stopped+", SHORT, {"resume": True}, "stopped"),
    ]
    status, output = work(world, folder, 2, runs)
    assert status == 0, output
    return folder


def errors(folder: Path, name: str) -> list[Any]:
    return [result(folder, name, rank).get("error") for rank in (0, 1)]


def test_nan_in_one_process_stops_all_and_names_process_step_and_images(agreed: Path) -> None:
    first, second = errors(agreed, "nan")
    assert first == second
    assert first[0] == "NonFiniteError"
    assert "at step 2 (epoch 0)" in first[1]
    assert "of process 1 of 2" in first[1]
    assert "images train/" in first[1]
    assert not (agreed / "nan" / "checkpoints" / "last.ckpt").exists()


def test_unreadable_images_of_one_process_stop_all_with_a_checkpoint(agreed: Path) -> None:
    first, second = errors(agreed, "unreadable")
    assert first == second
    assert "Image 7.png must be readable" in first[1]
    assert "A checkpoint of step 3 was saved" in first[1]


def test_a_signal_to_one_process_stops_all(agreed: Path) -> None:
    assert [result(agreed, "stopped", rank).get("stopped") for rank in (0, 1)] == [True, True]


@pytest.mark.parametrize("name", ["unreadable", "stopped"])
def test_a_resumed_run_has_the_bytes_of_an_uninterrupted_one(name: str, agreed: Path) -> None:
    for file in SAME:
        assert (agreed / name / file).read_bytes() == (agreed / "whole" / file).read_bytes(), file


def test_a_dying_process_ends_the_others_and_the_run_can_go_on(
    world: World, tmp_path: Path, agreed: Path
) -> None:
    saved = SHORT | {"train__save_every": 2}
    plan = written(world, tmp_path, [("run", saved, {"spies": {"kill": [1, STEPS + 3]}}, "run")])
    port, began = str(free_port()), time.monotonic()
    processes = [
        start(
            [sys.executable, "-m", "tests.distributed.worker", str(plan)],
            tmp_path,
            WORLD_SIZE="2",
            RANK=rank,
            LOCAL_RANK=rank,
            LOCAL_WORLD_SIZE="2",
            MASTER_ADDR="127.0.0.1",
            MASTER_PORT=port,
        )
        for rank in ("0", "1")
    ]
    killed, _ = finished(processes[1])
    died = time.monotonic()
    _, output = finished(processes[0], 60)
    assert killed == -signal.SIGKILL
    assert time.monotonic() - died < 30
    assert time.monotonic() - began > 0
    assert "Traceback" not in output
    kind, message = result(tmp_path, "run", 0)["error"]
    assert kind == "ProcessError"
    assert "All processes of a run must go on until its end" in message
    assert "--resume" in message
    # On two processes, as if nothing had happened; then on three.
    runs: list[Run] = [("again", saved, {"resume": True}, "run")]
    assert work(world, tmp_path, 2, runs)[0] == 0
    for file in SAME:
        assert (tmp_path / "run" / file).read_bytes() == (agreed / "whole" / file).read_bytes(), file


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 3])
def test_a_run_goes_on_with_another_number_of_processes(world: World, tmp_path: Path, count: int) -> None:
    runs: list[Run] = [("run", SHORT, {"spies": {"term": [0, STEPS + 1]}}, "run")]
    assert work(world, tmp_path, 2, runs)[0] == 0
    status, output = work(world, tmp_path, count, [("again", SHORT, {"resume": True, "quiet": False}, "run")])
    assert status == 0, output
    assert f"processes {count} where the run had 2" in output
    assert work(world, tmp_path, 2, [("whole", SHORT, {}, "whole")])[0] == 0
    for line, other in zip(lines(tmp_path / "run"), lines(tmp_path / "whole"), strict=True):
        for what, value in line.items():
            assert other[what] == pytest.approx(value, rel=2e-5, abs=1e-9), what
    environment = json.loads((tmp_path / "run" / "environment.json").read_text())
    assert environment["resumed"][0]["changes"]["processes"] == [2, count]
