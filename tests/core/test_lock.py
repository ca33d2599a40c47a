"""Locks: one owner, however many want it, and none after the owner's end."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from richkd.core import lock as lock_module
from richkd.core.errors import CheckpointError
from richkd.core.folder_lock import LOCK, folder_lock
from richkd.core.lock import FileLock, share
from richkd.core.lock_owners import SECONDS_SILENT, Locked, line_of, read_owners
from richkd.core.process import Process, this_process
from tests.core.closed import LONG
from tests.fixtures import refusal

HOLDER = """
import sys
from pathlib import Path
from richkd.core import lock
if sys.argv[2] == "content":
    lock.fcntl = None
held = lock.FileLock(Path(sys.argv[1]), shared=sys.argv[3] == "shared")
held.acquire()
print(flush=True)
sys.stdin.read()
held.release()
"""
ELSEWHERE = Process("a-host-far-away", 1, 4711, 99)


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock_module, "ATTEMPTS", 3)


@pytest.fixture
def mode(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """With the system's locks, or on a system that has none."""
    if request.param == "content":
        monkeypatch.setattr(lock_module, "fcntl", None)
    return str(request.param)


@contextmanager
def holder(path: Path, mode: str = "flock", kind: str = "exclusive") -> Iterator[subprocess.Popen[bytes]]:
    """Another process that holds a lock."""
    words = [sys.executable, "-c", HOLDER, str(path), mode, kind]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        try:
            yield child
        finally:
            child.kill()


@pytest.mark.parametrize("mode", ["flock", "content"], indirect=True)
def test_the_second_is_told_who_is_first_and_a_killed_owner_is_none(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "lock"
    with holder(path, mode) as child:
        with pytest.raises(Locked) as caught:
            FileLock(path).acquire()
        assert [owner.pid for owner in caught.value.owners] == [child.pid]
        assert f"process {child.pid} on {this_process().host}" in caught.value.describe()
        child.send_signal(signal.SIGKILL)
        child.wait()
        with FileLock(path) as lock:
            assert lock.taken_over
            assert read_owners(path)[0] == [this_process()]
    assert not path.exists()
    with FileLock(path) as lock:
        assert not lock.taken_over


@pytest.mark.parametrize("mode", ["flock", "content"], indirect=True)
def test_a_released_lock_is_free(tmp_path: Path, mode: str) -> None:
    path = tmp_path / "lock"
    with holder(path, mode) as child:
        child.communicate()
        assert not path.exists()
        FileLock(path).acquire()


@pytest.mark.parametrize("mode", ["content"], indirect=True)
def test_a_number_that_was_given_away_again_is_no_owner(tmp_path: Path, mode: str) -> None:
    path, me = tmp_path / "lock", this_process()
    path.write_bytes(line_of(me))
    with pytest.raises(Locked):
        FileLock(path).acquire()
    path.write_bytes(line_of(replace(me, start=me.start - 1)))
    with FileLock(path) as lock:
        assert lock.taken_over


@pytest.mark.parametrize("mode", ["flock", "content"], indirect=True)
def test_an_owner_on_another_host_counts_as_long_as_it_shows_itself(tmp_path: Path, mode: str) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / LOCK).write_bytes(line_of(ELSEWHERE))
    error = refusal(folder_lock(folder, "--out run").__enter__)
    assert isinstance(error, CheckpointError)
    assert "process 4711 on a-host-far-away, last seen" in str(error.got)
    assert f"remove {folder / LOCK}" in str(error.fix)
    # The refused process has not touched the file in its owner's place.
    long_ago = time.time() - SECONDS_SILENT - 5
    os.utime(folder / LOCK, (long_ago, long_ago))
    with folder_lock(folder, "--out run") as lock:
        assert lock.taken_over


def test_a_held_lock_is_touched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock_module, "SECONDS_BETWEEN_TOUCHES", 0.01)
    monkeypatch.setattr(lock_module, "_toucher", None)
    path = tmp_path / "lock"
    with FileLock(path):
        os.utime(path, (1, 1))
        deadline = time.monotonic() + 20
        while path.stat().st_mtime == 1 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert time.time() - path.stat().st_mtime < 60


@pytest.mark.parametrize("mode", ["flock", "content"], indirect=True)
def test_of_many_that_try_at_once_one_has_the_lock(
    tmp_path: Path, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock_module, "PAUSE", 0.001)
    path, inside, most, had = tmp_path / "lock", [0], [0], [0]

    def work() -> None:
        for _ in range(100):
            lock = FileLock(path)
            try:
                lock.acquire()
            except Locked:
                continue
            inside[0] += 1
            most[0] = max(most[0], inside[0])
            time.sleep(0.0005)
            inside[0] -= 1
            had[0] += 1
            lock.release()

    threads = [threading.Thread(target=work) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most[0] == 1
    assert had[0] >= 20
    assert not path.exists()


@pytest.mark.parametrize("mode", ["content"], indirect=True)
def test_a_claim_of_a_process_that_waits_is_left_alone_and_that_of_a_killed_one_is_not(
    tmp_path: Path, mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock_module, "PAUSE", 0.001)
    path, claim = tmp_path / "lock", tmp_path / "lock.claim"
    claim.touch()
    os.utime(claim, (time.time() - 5, time.time() - 5))
    with pytest.raises(Locked):
        FileLock(path).acquire()
    assert claim.exists()
    os.utime(claim, (time.time() - 11, time.time() - 11))
    with FileLock(path):
        assert not claim.exists()


def test_a_forked_child_does_not_keep_its_parents_lock(tmp_path: Path) -> None:
    lock = FileLock(tmp_path / "lock")
    lock.acquire()
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(writer)
        os.read(reader, 1)
        lock.release()  # which must not remove the parent's file
        os._exit(0)
    try:
        # As the end of the parent: the file is closed, and nothing else happens.
        assert lock._descriptor is not None
        os.close(lock._descriptor)
        lock._descriptor = None
        with FileLock(tmp_path / "lock") as taken:
            assert taken.taken_over
            os.write(writer, b"x")
            os.waitpid(pid, 0)
            assert (tmp_path / "lock").exists()
    finally:
        os.close(writer)
        os.close(reader)


def test_shared_locks_keep_an_exclusive_one_out_and_name_all_owners(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with holder(path, kind="shared") as first, holder(path, kind="shared") as second:
        third = share(path)
        assert third is not None
        with pytest.raises(Locked) as caught:
            FileLock(path).acquire()
        assert {owner.pid for owner in caught.value.owners} >= {first.pid, second.pid, os.getpid()}
        third.release()
        first.kill()
        with pytest.raises(Locked):
            FileLock(path).acquire()
    with FileLock(path), pytest.raises(Locked):
        share(path)
    # Names do not pile up: who is alone begins the list anew.
    for _ in range(3):
        again = share(path)
        assert again is not None
        assert len(read_owners(path)[0]) == 1
        again.release()


def test_a_folder_that_cannot_be_written_is_shared_without_a_lock(tmp_path: Path) -> None:
    assert share(tmp_path / "nowhere" / "lock") is None


def test_damaged_content_is_no_owner(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    for content in (b"\xff\xfe", b"{", b"[]\n7\nnull", b'{"host": "x", "pid": "many"}', b'{"host": "x"}'):
        path.write_bytes(content)
        assert read_owners(path)[0] == []
        with FileLock(path):
            pass


def test_a_full_disk_does_not_break_the_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int, content: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with FileLock(tmp_path / "lock"), pytest.raises(Locked) as caught:
        FileLock(tmp_path / "lock").acquire()
    assert caught.value.describe() == "another process"


def test_the_lock_of_a_folder_leaves_what_was_there(tmp_path: Path) -> None:
    with pytest.raises(KeyError), folder_lock(tmp_path / "a" / "b", "--out"):
        raise KeyError
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "old").mkdir()
    with folder_lock(tmp_path / "old" / "new", "--out"):
        (tmp_path / "old" / "new" / "file").touch()
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "new", "old"]
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "run"):
        error = refusal(folder_lock(path, f"--out {path}").__enter__)
        assert str(path) in error.rule
        assert "another --out" in str(error.fix)


def test_a_folder_whose_name_is_too_long_is_refused(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError) as caught, folder_lock(tmp_path / LONG / "run", "--out run"):
        raise AssertionError("the folder cannot be created")
    assert (caught.value.rule, caught.value.got) == ("--out run cannot be written", "File name too long")
    assert list(tmp_path.iterdir()) == []
