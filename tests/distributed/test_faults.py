"""A process that dies ends the others; any number of processes can go on with the run."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from tests.distributed.starts import Run, both, finished, lines, result, work, written
from tests.fixtures import World

pytestmark = pytest.mark.slow

SHORT: dict[str, Any] = {
    "train__batch_size": 7,
    "train__epochs": 2,
    "optim__lr": 0.002,
    "train__trackers": (),
}
# The training split has 36 images.
STEPS = 5
SAME = ("metrics.jsonl", "checkpoints/last.ckpt", "student/model.safetensors")


def test_a_dying_process_ends_the_others_and_the_run_can_go_on(world: World, tmp_path: Path) -> None:
    saved = SHORT | {"train__save_every": 2}
    plan = written(world, tmp_path, [("run", saved, {"spies": {"kill": [1, STEPS + 3]}}, "run")])
    words = ["-m", "tests.distributed.worker", str(plan)]
    processes = both(words, tmp_path)
    killed, _ = finished(processes[1])
    died = time.monotonic()
    _, output = finished(processes[0], 60)
    assert killed == -signal.SIGKILL
    assert time.monotonic() - died < 30
    assert "Traceback" not in output
    kind, message = result(tmp_path, "run")["error"]
    assert kind == "ProcessError"
    assert "All processes of a run must go on until its end" in message
    assert "--resume" in message


def test_a_run_of_which_a_process_died_goes_on_as_if_nothing_had_happened(
    world: World, tmp_path: Path
) -> None:
    saved = SHORT | {"train__save_every": 2}
    words = ["-m", "tests.distributed.worker", str(tmp_path / "plan.json")]
    written(world, tmp_path, [("run", saved, {"spies": {"kill": [0, STEPS + 3]}}, "run")])
    for process in both(words, tmp_path):
        finished(process)
    written(world, tmp_path, [("again", saved, {"resume": True}, "run"), ("whole", SHORT, {}, "whole")])
    ends = [finished(process) for process in both(words, tmp_path)]
    assert [status for status, _ in ends] == [0, 0], ends
    for file in SAME:
        assert (tmp_path / "run" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes(), file


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
