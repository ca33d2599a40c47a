"""Processes: who runs, who has ended, and who only has the number of an earlier one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from richkd.core import process as process_module
from richkd.core.process import Process, is_running, this_process

SLEEP = [sys.executable, "-c", "import sys; print(flush=True); sys.stdin.read()"]
SHOW = "from richkd.core.process import this_process as me; p = me(); print(p.place, p.pid, p.start)"


def test_another_process_knows_this_one_and_has_the_same_place() -> None:
    printed = subprocess.run([sys.executable, "-c", SHOW], capture_output=True, text=True, check=True).stdout
    place, pid, start = printed.split()
    assert place == this_process().place
    assert int(pid) != this_process().pid
    assert int(start) >= this_process().start


def test_a_forked_child_is_another_process() -> None:
    parent = this_process()
    pid = os.fork()
    if pid == 0:
        me = this_process()
        os._exit(0 if me.pid == os.getpid() != parent.pid and me.place == parent.place else 1)
    assert os.waitpid(pid, 0)[1] == 0


def test_a_process_runs_until_it_is_killed_even_if_nobody_has_waited_for_it() -> None:
    with subprocess.Popen(SLEEP, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        start = process_module._start_of(child.pid)
        assert start is not None
        assert is_running(child.pid, start)
        assert is_running(child.pid, 0)
        # The same number with another start time is another process.
        assert not is_running(child.pid, start - 1)
        child.send_signal(signal.SIGKILL)
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        assert not is_running(child.pid, start)
    assert not is_running(child.pid, 0)


def test_another_users_process_runs_even_if_its_folder_is_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(pid: int, number: int) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "kill", refuse)
    # No number is that high, so /proc has no such folder.
    assert is_running(4_000_000_000, 17)


def test_psutil_agrees_with_proc(monkeypatch: pytest.MonkeyPatch) -> None:
    start = process_module._start_by_psutil(os.getpid())
    assert start
    monkeypatch.setattr(sys, "platform", "darwin")
    assert this_process().start == start
    assert is_running(os.getpid(), start)
    assert not is_running(os.getpid(), start + 1)
    assert not is_running(999_999_999, 0)


def test_places_differ_by_host_and_by_container() -> None:
    places = {Process(host, space, 1, 1).place for host in ("a", "b") for space in (1, 2)}
    assert len(places) == 4
