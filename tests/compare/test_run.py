"""The queue: killed at random, with a run that fails, and without space on the disk."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

from richkd.compare import queue
from richkd.compare.logits import read_logits
from richkd.compare.queue import run_queue
from richkd.compare.worker import Job, Outcome, is_disk_full
from richkd.config.schema import Config
from richkd.core.errors import CheckpointError, ProcessError
from richkd.core.interrupt import Interrupted, StopRequest
from richkd.training.run_folder import RunFolder
from tests.compare.plans import content, in_child, leftovers, run, runs_of, write
from tests.fixtures import World, refusal

CONFIG = Config.model_validate({"data": {"path": "."}, "student": {"name": "resnet18"}})


@pytest.fixture(scope="module")
def whole(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A comparison that was left alone."""
    folder = tmp_path_factory.mktemp("whole")
    run(write(folder, content(world, budgets=[2])), folder / "out")
    return folder


@pytest.mark.slow
def test_a_comparison_that_was_killed_ten_times_ends_as_if_nothing_had_happened(
    world: World, whole: Path, tmp_path: Path
) -> None:
    path, draws = write(tmp_path, content(world, budgets=[2])), random.Random(0)
    finished: dict[Path, int] = {}
    for _ in range(10):
        child = in_child(path, tmp_path / "out")
        time.sleep(draws.uniform(0.2, 2.0))
        child.kill()
        child.join()
        for file in finished:
            assert file.stat().st_mtime_ns == finished[file], "a finished run ran twice"
        finished = {file: file.stat().st_mtime_ns for file in (tmp_path / "out").glob("runs/*/summary.json")}
    run(path, tmp_path / "out")
    assert (tmp_path / "out" / "compare.json").read_bytes() == (whole / "out" / "compare.json").read_bytes()
    names = [f.relative_to(whole) for f in whole.glob("out/runs/*/student/model.safetensors")]
    assert len(names) == 6
    for name in names:
        assert (tmp_path / name).read_bytes() == (whole / name).read_bytes()
    assert not leftovers(tmp_path)


def test_nothing_runs_again_in_a_finished_comparison(whole: Path) -> None:
    files = [file for file in (whole / "out").rglob("*") if file.is_file() and file.parent != whole / "out"]
    before = {file: file.stat().st_mtime_ns for file in files}
    table = (whole / "out" / "compare.json").read_bytes()
    run(whole / "plan.yaml", whole / "out")
    assert {file: file.stat().st_mtime_ns for file in files} == before
    assert (whole / "out" / "compare.json").read_bytes() == table


def killed_with_a_lock(folder: Path) -> None:
    """A process that takes the lock of a folder and is killed."""
    code = "import os, sys; from pathlib import Path; from richkd.core.lock import FileLock; "
    code += "FileLock(Path(sys.argv[1])).acquire(); os.kill(os.getpid(), 9)"
    subprocess.run([sys.executable, "-c", code, str(folder / "richkd.lock")], check=False, timeout=120)
    assert (folder / "richkd.lock").exists()


def test_the_lock_of_a_process_that_was_killed_after_its_run_is_removed(whole: Path) -> None:
    run_of = sorted((whole / "out" / "runs").iterdir())[0]
    before = (run_of / "summary.json").stat().st_mtime_ns
    killed_with_a_lock(run_of)
    run(whole / "plan.yaml", whole / "out")
    assert not leftovers(whole, seconds=0)
    assert (run_of / "summary.json").stat().st_mtime_ns == before


def test_the_table_has_the_figures_of_the_runs(whole: Path) -> None:
    table = json.loads((whole / "out" / "compare.json").read_text())
    (cell,) = table["cells"]
    assert [method["name"] for method in cell["methods"]] == ["kd", "richkd", "richkd shuffled"]
    for planned in runs_of(whole / "plan.yaml"):
        summary = RunFolder(planned.config.out).summary()
        assert summary is not None
        method = next(one for one in cell["methods"] if one["name"] == planned.method)
        figures = next(one for one in method["runs"] if one["seed"] == planned.seed)
        test = summary["splits"]["test"]
        assert figures["top1"] == test["top1"]
        assert figures["nll"] == pytest.approx(test["calibrated"]["nll"], rel=1e-4)
        assert figures["parameters"] == summary["parameters"]


def test_damaged_logits_are_computed_again(whole: Path) -> None:
    path = whole / "out" / "logits" / "kd-e2-s0.safetensors"
    before = path.read_bytes()
    path.write_bytes(before[:-8] + bytes(8))
    assert isinstance(refusal(read_logits, path), CheckpointError)
    run(whole / "plan.yaml", whole / "out")
    assert path.read_bytes() == before


@pytest.mark.slow
def test_the_queue_goes_on_after_a_run_that_fails(world: World, tmp_path: Path) -> None:
    methods = {"kd": None, "wild": {"method": "kd", "optim.lr": 1e30}, "ce": None}
    base = content(world)["base"]
    del base["clip"]
    path = write(tmp_path, content(world, base=base, methods=methods))
    result = run(path, tmp_path / "out")
    assert set(result.failed) == {"wild-e1-s0", "wild-e1-s1"}
    (cell,) = result.cells
    kd, wild, ce = cell.methods
    assert (len(kd.runs), len(wild.runs), len(ce.runs)) == (2, 0, 2)
    assert "finite" in wild.failed[0]
    assert "finite" in (tmp_path / "out" / "compare.html").read_text()
    assert "error: NonFiniteError" in (tmp_path / "out" / "logs" / "wild-e1-s0.txt").read_text()


def test_a_second_comparison_in_the_same_folder_is_refused(world: World, tmp_path: Path) -> None:
    path = write(tmp_path, content(world))
    child = in_child(path, tmp_path / "out")
    try:
        wait_for(tmp_path / "out" / "richkd.lock", child)
        assert "must have one writer" in str(refusal(run, path, tmp_path / "out"))
    finally:
        child.kill()
        child.join()


def test_a_signal_saves_and_ends(world: World, tmp_path: Path) -> None:
    path = write(tmp_path, content(world, methods={"kd": None, "richkd": None}, budgets=[500], seeds=[0]))
    child = in_child(path, tmp_path / "out", jobs=1)
    wait_for(tmp_path / "out" / "runs" / "kd-e500-s0" / "checkpoints" / "last.ckpt", child)
    interrupt(child)
    assert child.exitcode == 130
    assert not (tmp_path / "out" / "richkd.lock").exists()
    assert not (tmp_path / "out" / "runs" / "kd-e500-s0" / "richkd.lock").exists()


@pytest.mark.parametrize(("requested", "state"), [(True, "stopped"), (False, "failed")])
def test_a_run_that_the_same_signal_ends_has_not_failed(requested: bool, state: str, tmp_path: Path) -> None:
    """A launcher sends a signal to all processes of a group, also to those that still load libraries."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    sender.close()
    process = context.Process(target=sys.exit, args=(255,))
    process.start()
    job = Job("a", CONFIG, None, tmp_path / "a.txt")
    outcome = queue._outcome_of(queue._Running(job, process, receiver), StopRequest(requested))
    assert (outcome.state, "255" in outcome.reason) == (state, not requested)


class Serverless:
    """Starts processes as a server of processes does that has ended."""

    Pipe = staticmethod(multiprocessing.Pipe)

    class Process:
        def __init__(self, **given: object) -> None: ...

        def start(self) -> None:
            raise EOFError("unexpected EOF")


@pytest.mark.parametrize(("requested", "expected"), [(True, Interrupted), (False, ProcessError)])
def test_a_signal_may_end_the_server_of_processes(
    requested: bool, expected: type[Exception], tmp_path: Path
) -> None:
    with pytest.raises(expected):
        queue._begin(Serverless, *jobs_of(tmp_path, 1), works, StopRequest(requested))


def test_processes_of_a_killed_comparison_save_and_end(world: World, tmp_path: Path) -> None:
    path = write(tmp_path, content(world, methods={"kd": None, "richkd": None}, budgets=[500], seeds=[0]))
    child = in_child(path, tmp_path / "out", jobs=1)
    folder = tmp_path / "out" / "runs" / "kd-e500-s0"
    wait_for(folder / "checkpoints" / "last.ckpt", child)
    child.kill()
    child.join()
    deadline = time.monotonic() + 30
    while (folder / "richkd.lock").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not (folder / "richkd.lock").exists()
    assert not (folder / "summary.json").exists()


def wait_for(path: Path, child: BaseProcess) -> None:
    while not path.exists():
        assert child.is_alive(), f"the process ended with status {child.exitcode} before {path.name} existed"
        time.sleep(0.05)


def interrupt(child: BaseProcess) -> None:
    assert child.pid is not None
    os.kill(child.pid, signal.SIGINT)
    child.join(60)


def jobs_of(folder: Path, count: int) -> list[Job]:
    return [Job(f"{n}", CONFIG, folder / f"{n}.safetensors", folder / f"{n}.txt") for n in range(count)]


def works(job: Job, connection: Connection) -> None:
    job.log.write_text("began")
    if job.name == "1":
        reason = f"last.ckpt could not be written; got {os.strerror(errno.ENOSPC)}"
        connection.send(Outcome("failed", reason, is_disk_full(reason)))
        return
    connection.send(Outcome("finished"))


def dies(job: Job, connection: Connection) -> None:
    if job.name == "1":
        os.kill(os.getpid(), signal.SIGKILL)
    if job.name == "2":
        os._exit(3)
    connection.send(Outcome("finished"))


def queued(folder: Path, work: object) -> dict[str, Outcome]:
    return run_queue(
        jobs_of(folder, 4),
        1,
        began=lambda job: None,
        ended=lambda job, outcome: None,
        work=work,  # type: ignore[arg-type]
        start="fork",
    )


def test_a_full_disk_ends_the_queue(tmp_path: Path) -> None:
    error = refusal(queued, tmp_path, works)
    assert "no space left on the disk" in error.rule
    assert sorted(file.name for file in tmp_path.iterdir()) == ["0.txt", "1.txt"]


def test_a_process_that_dies_is_a_run_that_failed(tmp_path: Path) -> None:
    outcomes = queued(tmp_path, dies)
    assert [outcomes[name].state for name in "0123"] == ["finished", "failed", "failed", "finished"]
    assert "SIGKILL" in outcomes["1"].reason
    assert "status 3" in outcomes["2"].reason
