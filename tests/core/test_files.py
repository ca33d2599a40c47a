"""Writing a file replaces a file, and nothing else."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from richkd.core.errors import CheckpointError
from richkd.core.files import write_atomically
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
    now = path.lstat()
    # Reading the name that a link leads to changes the time of its last access.
    assert (now.st_ino, now.st_mode, now.st_mtime_ns) == (before.st_ino, before.st_mode, before.st_mtime_ns)
    assert [file.name for file in tmp_path.iterdir()] == ["out.csv"]
