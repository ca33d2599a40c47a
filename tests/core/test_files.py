"""Writing a file replaces a file, and nothing else."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from richkd.core.errors import CheckpointError, ConfigError
from richkd.core.files import not_written, refuse_no_file, write_atomically
from tests.core.closed import LONG, close
from tests.fixtures import refusal


@pytest.mark.parametrize("kind", ["pipe", "device", "folder"])
def test_what_is_no_file_is_not_replaced(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "out.csv"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/null")
    else:
        path.mkdir()
    before = path.lstat()
    error = refusal(write_atomically, path, b"text")
    assert isinstance(error, CheckpointError)
    assert error.got == f"a {kind}, no regular file"
    assert (error.rule, error.fix) == (f"{path} must be a file", "give another name.")
    now = path.lstat()
    # Reading the name that a link leads to changes the time of its last access.
    assert (now.st_ino, now.st_mode, now.st_mtime_ns) == (before.st_ino, before.st_mode, before.st_mtime_ns)
    assert [file.name for file in tmp_path.iterdir()] == ["out.csv"]


@pytest.mark.parametrize(("name", "resumes"), [("last.ckpt", True), ("page.html", False), ("x.csv", False)])
def test_only_a_checkpoint_is_said_to_be_resumed(tmp_path: Path, name: str, resumes: bool) -> None:
    error = not_written(tmp_path / name, 9, OSError(errno.ENOSPC, "No space left on device"))
    assert str(error.fix).startswith("free space or choose another folder")
    assert ("--resume" in str(error.fix)) == resumes


def test_a_file_in_the_place_of_a_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("")
    for name in ("cache/speed.json", "cache/train/0.bin"):
        error = refusal(write_atomically, tmp_path / name, b"text")
        assert error.rule == f"{tmp_path / name} could not be written (4 bytes)"
        assert error.got == f"{tmp_path / 'cache'} is a file, no folder"
        assert error.fix == "choose another folder."


def test_a_file_that_cannot_be_written_is_refused_before_the_work(tmp_path: Path) -> None:
    refuse_no_file(tmp_path / "new" / "x.csv", "x.csv")
    refuse_no_file(Path("x.csv"), "x.csv")
    error = refusal(refuse_no_file, tmp_path, "x.csv")
    assert isinstance(error, ConfigError)
    assert (error.rule, error.got) == (f"--out {tmp_path} must be a file", "a folder")
    assert error.fix == f"give a file name, such as {tmp_path / 'x.csv'}."
    error = refusal(refuse_no_file, Path("/dev/null"), "x.csv")
    assert (error.got, error.fix) == ("a device", "give a file name, such as x.csv.")
    (tmp_path / "file").write_text("")
    assert "is not a folder" in str(refusal(refuse_no_file, tmp_path / "file" / "x.csv", "x.csv").got)


def test_a_name_that_is_too_long_is_refused_before_the_work_and_in_it(tmp_path: Path) -> None:
    error = refusal(refuse_no_file, tmp_path / f"{LONG}.csv", "x.csv")
    assert (error.rule, error.got) == (f"--out {tmp_path / LONG}.csv cannot be written", "File name too long")
    for path in (tmp_path / f"{LONG}.csv", tmp_path / LONG / "x.csv"):
        error = refusal(write_atomically, path, b"text")
        assert isinstance(error, CheckpointError)
        assert (error.got, error.fix) == ("File name too long", "give a shorter name.")


def test_a_folder_that_may_not_be_searched_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "closed").mkdir()
    close(monkeypatch, tmp_path / "closed")
    denied = PermissionError(errno.EACCES, "Permission denied")
    error = not_written(tmp_path / "closed" / "runs" / "x.csv", 9, denied)
    assert error.got == "Permission denied"
