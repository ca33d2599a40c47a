"""What comes from outside while a command runs: other processes, closed pipes, a closed terminal."""

from __future__ import annotations

import fcntl
import os
import pty
import signal
import subprocess
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from richkd.core.folder_lock import LOCK, folder_lock
from richkd.core.lock_owners import read_owners
from richkd.training.checkpoint import load_checkpoint
from richkd.training.run import distill
from richkd.training.run_folder import RunFolder, read_lines
from tests.cli.test_cli import call, refused
from tests.fixtures import World, command, one_thread, without_waits

pytestmark = pytest.mark.slow

ALONE: dict[str, Any] = {"method__name": "ce", "train__trackers": "[]"}
LONG = ALONE | {"train__epochs": 500, "train__save_every": 1, "train__eval_every": 100}
Capture = pytest.CaptureFixture[str]


def hears_the_end_of_its_terminal() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@contextmanager
def started(*words: str, **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    """A command in a process of its own, which is killed at the end at the latest."""
    # The tests themselves may run under nohup, and a process starts with the ignored signals of its parent.
    options = {"preexec_fn": hears_the_end_of_its_terminal} | options
    with subprocess.Popen(command(*words), env=one_thread(), **options) as process:
        try:
            yield process
        finally:
            process.kill()


def wait_for(process: subprocess.Popen[bytes], path: Path) -> None:
    deadline = time.monotonic() + 240
    while not path.exists() and time.monotonic() < deadline:
        assert process.poll() is None
        time.sleep(0.01)
    assert path.exists()


def test_a_run_folder_has_one_writer(world: World, tmp_path: Path, capsys: Capture) -> None:
    out = tmp_path / "run"
    options = world.options(out, **LONG)
    with started("distill", *options, stdout=subprocess.PIPE) as first:
        wait_for(first, RunFolder(out).last)
        assert [owner.pid for owner in read_owners(out / LOCK)[0]] == [first.pid]
        for more in ([], ["--resume"], ["--overwrite"]):
            text = refused(capsys, "distill", *options, *more)
            assert f"process {first.pid} on" in text
            assert str(out) in text
        text = refused(capsys, "teach", *world.options(out, **LONG), "--folds", "2", "--overwrite")
        assert f"process {first.pid} on" in text
        probed = refused(capsys, "probe", *world.options(out, train__epochs=None, method__name=None))
        assert f"process {first.pid} on" in probed
        first.send_signal(signal.SIGKILL)
    lines = read_lines(out / "metrics.jsonl")
    assert [line["epoch"] for line in lines] == list(range(len(lines)))
    # The killed owner is none: the run goes on, until it is asked to stop.
    with started("distill", *options, "--resume", stdout=subprocess.PIPE) as second:
        wait_until_saved_again(second, out)
        second.send_signal(signal.SIGHUP)
        second.send_signal(signal.SIGHUP)
        printed, _ = second.communicate(timeout=120)
    assert second.returncode == 130
    assert b"stopped and saved" in printed
    assert not (out / LOCK).exists()
    lines = read_lines(out / "metrics.jsonl")
    assert [line["epoch"] for line in lines] == list(range(len(lines)))


def wait_until_saved_again(process: subprocess.Popen[bytes], out: Path) -> None:
    step = load_checkpoint(RunFolder(out).last)[0].scalars["step"]
    deadline = time.monotonic() + 240
    while load_checkpoint(RunFolder(out).last)[0].scalars["step"] <= step and time.monotonic() < deadline:
        assert process.poll() is None
        time.sleep(0.05)


def test_a_run_goes_on_when_its_reader_has_ended(world: World, tmp_path: Path) -> None:
    config = ALONE | {"train__epochs": 4}
    words = ("distill", *world.options(tmp_path / "run", **config))
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with started(*words, **pipes) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        process.stderr.close()
        assert process.wait(240) == 0
    distill(world.config(tmp_path / "whole", **config), quiet=True)
    for name in ("metrics.jsonl", "student/model.safetensors"):
        assert (tmp_path / "run" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


@pytest.mark.parametrize("ignored", [False, True], ids=["in the foreground", "with nohup"])
def test_a_terminal_that_closes(world: World, tmp_path: Path, ignored: bool) -> None:
    out = tmp_path / "run"
    changes = {**LONG, "train__epochs": 20 if ignored else 500}
    terminal, theirs = pty.openpty()

    def attach_terminal() -> None:
        os.setsid()
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)
        signal.signal(signal.SIGHUP, signal.SIG_IGN if ignored else signal.SIG_DFL)

    streams = {"stdin": theirs, "stdout": theirs, "stderr": theirs}
    with started("distill", *world.options(out, **changes), preexec_fn=attach_terminal, **streams) as process:
        os.close(theirs)
        wait_for(process, RunFolder(out).last)
        # The kernel sends SIGHUP, and everything printed from now on fails.
        os.close(terminal)
        assert process.wait(240) == (0 if ignored else 130)
    step = load_checkpoint(RunFolder(out).last)[0].scalars["step"]
    assert (step == 20 * 4) == ignored
    assert (out / "summary.json").exists() == ignored
    assert not (out / LOCK).exists()


def test_commands_that_print_end_quietly_with_their_reader(world: World) -> None:
    image = str(next(world.images.rglob("*.png")))
    for words in (("settings",), ("predict", str(world.teacher), image)):
        with started(*words, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            assert process.stdout is not None
            assert process.stderr is not None
            process.stdout.close()
            # A single line is still in the buffer when the command ends.
            assert without_waits(process.stderr.read().decode()) == ""
            assert process.wait(240) == 1


def test_a_cache_that_is_in_use_is_not_removed(world: World, tmp_path: Path, capsys: Capture) -> None:
    cache = tmp_path / "cache"
    changes = {"method__name": "kd", "train__trackers": "[]", "cache__dir": str(cache)}
    words = world.options(tmp_path / "run", **changes, train__epochs=500, train__save_every=1)
    with started("distill", *words, stdout=subprocess.PIPE) as process:
        wait_for(process, RunFolder(tmp_path / "run").last)
        name = next(path.name for path in cache.iterdir() if path.is_dir() and "train" in path.name)
        assert f"process {process.pid} on" in refused(capsys, "cache", "rm", str(cache), name)
        # Reading is no use, and a second run may write, too.
        assert call(capsys, "cache", "ls", str(cache))[0] == 0
        assert call(capsys, "cache", "verify", str(cache))[0] == 0
        distill(world.config(tmp_path / "second", **changes, train__epochs=1), quiet=True)
        process.kill()
        process.wait()
    assert call(capsys, "cache", "rm", str(cache), name)[0] == 0
    assert not [path for path in cache.iterdir() if name in path.name]
    assert "There is no cache" in refused(capsys, "cache", "rm", str(cache), name)


def test_a_page_has_one_writer(world: World, tmp_path: Path, capsys: Capture) -> None:
    distill(world.config(tmp_path / "run", **ALONE, train__epochs=1), quiet=True)
    with folder_lock(tmp_path / "run" / "report", "the page"):
        assert f"process {os.getpid()} on" in refused(capsys, "report", str(tmp_path / "run"))
    assert not (tmp_path / "run" / "report").exists()
    # A mistyped run does not become a folder.
    assert str(tmp_path / "typo") in refused(capsys, "report", str(tmp_path / "typo"))
    assert not (tmp_path / "typo").exists()
