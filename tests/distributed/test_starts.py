"""Starts by launchers: one run of several processes, or a message with the command that works."""

from __future__ import annotations

import json
import signal
import sys
import time
from pathlib import Path

import pytest

from tests.distributed.starts import both, finished, start, torchrun
from tests.fixtures import World

pytestmark = pytest.mark.slow

ONE_EPOCH = {"method__name": "ce", "train__epochs": 1, "train__trackers": "[]"}
WORKS = "torchrun --nproc_per_node 2 -m richkd distill"


def richkd(world: World, out: Path, **changes: object) -> list[str]:
    return ["-m", "richkd", "distill", *world.options(out, **ONE_EPOCH | changes)]


def test_torchrun_on_a_cpu_is_one_run_whose_messages_are_printed_once(world: World, tmp_path: Path) -> None:
    words = torchrun(2, *richkd(world, tmp_path / "run", train__device="cpu"))
    status, output = finished(start(words, tmp_path))
    assert status == 0, output
    assert output.count("student: ") == 1
    assert output.count("36 train") == 1
    assert len((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()) == 1
    environment = json.loads((tmp_path / "run" / "environment.json").read_text())
    assert environment["processes"] == 2


def test_a_mistake_is_refused_in_all_processes_and_said_once(world: World, tmp_path: Path) -> None:
    words = torchrun(2, *richkd(world, tmp_path / "run", optim__name="adamww"))
    status, output = finished(start(words, tmp_path))
    assert status != 0
    assert output.count("error: ConfigError") == 1
    assert "adamww" in output
    assert output.count("exitcode  : 1 ") == 2
    assert not (tmp_path / "run" / "config.yaml").exists()


def test_accelerate_on_a_cpu_is_refused_with_the_command_that_works(world: World, tmp_path: Path) -> None:
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2"]
    words = [*launcher, "-m", *richkd(world, tmp_path / "run")[1:]]
    status, output = finished(start(words, tmp_path))
    assert status != 0
    assert "`accelerate launch` was to start several processes on the CPU, and started one" in output
    assert WORKS in output
    assert not (tmp_path / "run").exists()


def test_an_environment_of_processes_that_nobody_joined_is_refused(world: World, tmp_path: Path) -> None:
    words = [sys.executable, *richkd(world, tmp_path / "run")]
    status, output = finished(start(words, tmp_path, WORLD_SIZE="2"))
    assert status == 1
    assert "WORLD_SIZE=2, and no RANK" in output
    assert "torchrun --nproc_per_node" in output
    assert not (tmp_path / "run").exists()


def test_other_commands_are_one_process(world: World, tmp_path: Path) -> None:
    words = [sys.executable, "-m", "richkd", "check", *world.options(tmp_path / "run", **ONE_EPOCH)]
    status, output = finished(start(words, tmp_path, WORLD_SIZE="2", LOCAL_RANK="0"))
    assert status == 1
    assert "several can be started for distill, teach, cache" in output


@pytest.mark.parametrize("first", [0, 1])
def test_signals_at_different_times_end_all_processes_as_they_end_one(
    world: World, tmp_path: Path, first: int
) -> None:
    out = tmp_path / "run"
    processes = both(richkd(world, out, train__epochs=2000, train__save_every=1), tmp_path)
    wait_for(out / "checkpoints" / "last.ckpt")
    processes[first].send_signal(signal.SIGTERM)
    time.sleep(0.3)
    processes[1 - first].send_signal(signal.SIGTERM)
    ends = [finished(process, 60) for process in processes]
    assert [status for status, _ in ends] == [130, 130], ends
    assert "Traceback" not in ends[0][1] + ends[1][1]
    assert ends[0][1].count("stopped and saved") == 1
    assert "stopped and saved" not in ends[1][1]


def test_a_signal_to_torchrun_stops_the_run_with_a_checkpoint(world: World, tmp_path: Path) -> None:
    out = tmp_path / "run"
    words = torchrun(2, *richkd(world, out, train__epochs=2000, train__save_every=1))
    process = start(words, tmp_path)
    wait_for(out / "checkpoints" / "last.ckpt")
    process.send_signal(signal.SIGTERM)
    _, output = finished(process, 60)
    assert output.count("stopped and saved") == 1
    lines = len((out / "metrics.jsonl").read_text().splitlines()) if (out / "metrics.jsonl").exists() else 0
    words = torchrun(2, *richkd(world, out, train__epochs=lines + 1, train__save_every=1), "--resume")
    status, output = finished(start(words, tmp_path))
    assert status == 0, output


@pytest.mark.parametrize("asleep", [0, 1])
def test_a_process_that_hangs_ends_the_others_after_the_timeout(
    world: World, tmp_path: Path, asleep: int
) -> None:
    out = tmp_path / "run"
    changes = {"train__epochs": 2000, "train__save_every": 1, "train__process_timeout": 5}
    processes = both(richkd(world, out, **changes), tmp_path)
    wait_for(out / "checkpoints" / "last.ckpt")
    processes[asleep].send_signal(signal.SIGSTOP)
    status, output = finished(processes[1 - asleep], 40)
    processes[asleep].kill()
    finished(processes[asleep])
    assert status == 1
    assert "error: ProcessError" in output
    assert "--train.process_timeout" in output
    assert "Traceback" not in output


def wait_for(path: Path) -> None:
    for _ in range(1200):
        if path.exists():
            return
        time.sleep(0.1)
    raise AssertionError(f"{path} was not written")


def test_a_compiled_student_and_a_search_are_one_process(world: World, tmp_path: Path) -> None:
    compiled = richkd(world, tmp_path / "run", train__compile="always")
    for words, message in (
        (compiled, "The student of a run of several processes is not compiled"),
        ([*richkd(world, tmp_path / "run"), "--tune", "10m"], "A search (--tune) starts its own processes"),
    ):
        ends = [finished(process) for process in both(words, tmp_path)]
        assert [status for status, _ in ends] == [1, 1], ends
        assert sum(output.count(message) for _, output in ends) == 1, ends
