"""What is no regular file is refused without opening it, so nothing waits."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from richkd.core.regular_files import check_regular, kind_of, open_regular, read_regular, special_in
from tests.core.closed import LONG


def test_pipes_sockets_devices_and_folders_are_refused_by_name(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("pipe")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
        for path, kind in (
            (tmp_path / "pipe", "a pipe"),
            (tmp_path / "link", "a pipe"),
            (tmp_path / "socket", "a socket"),
            (Path("/dev/zero"), "a device"),
            (tmp_path, "a folder"),
        ):
            assert kind_of(path) == kind
            functions: tuple[Callable[[Path], object], ...] = (check_regular, open_regular, read_regular)
            for function in functions:
                with pytest.raises(OSError, match=f"{kind}, no regular file"):
                    function(path)


def test_a_file_is_read_up_to_the_limit(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    assert read_regular(tmp_path / "a", limit=3) == read_regular(str(tmp_path / "a")) == b"abc"
    # A sparse file is large without bytes on the disk.
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(OSError, match="1,099,511,627,776 bytes, more than 3"):
        read_regular(tmp_path / "sparse", limit=3)
    with pytest.raises(FileNotFoundError):
        read_regular(tmp_path / "gone")


def test_a_file_that_becomes_a_pipe_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    os.mkfifo(tmp_path / "pipe")
    before = os.stat(tmp_path / "a")  # noqa: PTH116
    monkeypatch.setattr("richkd.core.regular_files.os.stat", lambda path: before)
    with pytest.raises(OSError, match="no regular file"):
        open_regular(tmp_path / "pipe")


def test_no_special_file_is_found_where_none_can_be_looked_for() -> None:
    assert special_in(Path(LONG)) is None
