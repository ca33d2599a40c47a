"""Temporary files: those of ended processes are removed, and nothing else."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from richkd.core.files import write_atomically
from richkd.core.process import this_process
from richkd.core.temporary import (
    PATTERN,
    SECONDS_ELSEWHERE,
    remove_abandoned,
    temporary_file,
    temporary_folder,
    temporary_path,
)

# Writes a file and stops before the file has its final name.
WRITER = """
import sys, time
from pathlib import Path
from richkd.core.files import write_atomically
from richkd.core.temporary import temporary_folder
def wait(*args):
    print(flush=True)
    time.sleep(60)
if sys.argv[1] == "file":
    Path.replace = wait
    write_atomically(Path(sys.argv[2]) / "last.ckpt", b"content")
else:
    with temporary_folder(Path(sys.argv[2])) as folder:
        (folder / "inside").write_bytes(b"content")
        wait()
"""


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_what_a_killed_process_leaves_is_removed_after_its_end_only(tmp_path: Path, kind: str) -> None:
    words = [sys.executable, "-c", WRITER, kind, str(tmp_path)]
    with subprocess.Popen(words, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        (left,) = tmp_path.iterdir()
        assert remove_abandoned(tmp_path) == []
        child.send_signal(signal.SIGKILL)
    assert remove_abandoned(tmp_path) == [left]
    assert list(tmp_path.iterdir()) == []


def test_of_other_hosts_only_old_files_are_removed(tmp_path: Path) -> None:
    young, old = (tmp_path / f".a.01234567-{pid}-1-0.tmp" for pid in (1, 2))
    for path in (young, old):
        path.touch()
    long_ago = time.time() - SECONDS_ELSEWHERE - 60
    os.utime(old, (long_ago, long_ago))
    assert remove_abandoned(tmp_path) == [old]
    assert list(tmp_path.iterdir()) == [young]


def test_files_with_other_names_and_links_stay(tmp_path: Path) -> None:
    place = this_process().place
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "photo.png").touch()
    for name in (
        ".notes.tmp",
        ".last.ckpt.4711.tmp",
        f"last.ckpt.{place}-4000000000-1-0.tmp",
        f".last.ckpt.{place}-4000000000-1-0.tmp.png",
        f".last.ckpt.{place}-4000000000-1.tmp",
        f".last.ckpt.{place.upper()}X-4000000000-1-0.tmp",
        f".last.ckpt.{place}-many-1-0.tmp",
        f"..{place}-4000000000-1-0.tmp",
    ):
        (tmp_path / name).touch()
    (tmp_path / f".link.{place}-4000000000-1-0.tmp").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / f".a.{place}-4000000000-1-0.tmp").touch()
    before = sorted(tmp_path.rglob("*"))
    assert remove_abandoned(tmp_path) == []
    assert sorted(tmp_path.rglob("*")) == before


def test_folders_that_cannot_be_read_or_do_not_exist_are_no_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert remove_abandoned(tmp_path / "nowhere") == remove_abandoned(tmp_path / "file") == []


def test_names_are_unique_and_short_enough_for_every_file(tmp_path: Path) -> None:
    path = tmp_path / ("ä" * 120 + ".ckpt")
    names = {temporary_path(path).name for _ in range(10)}
    assert len(names) == 10
    assert all(PATTERN.fullmatch(name) and len(name.encode()) <= 255 for name in names)
    write_atomically(path, b"content")
    assert path.read_bytes() == b"content"


def test_an_error_or_ctrl_c_leaves_nothing(tmp_path: Path) -> None:
    def stop_in_file() -> None:
        with temporary_file(tmp_path / "a") as path:
            path.touch()
            raise KeyboardInterrupt

    def stop_in_folder() -> None:
        with temporary_folder(tmp_path / "new") as folder:
            (folder / "inside").touch()
            raise KeyboardInterrupt

    for stop in (stop_in_file, stop_in_folder):
        with pytest.raises(KeyboardInterrupt):
            stop()
    assert [path.name for path in tmp_path.rglob("*")] == ["new"]
