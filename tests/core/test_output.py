"""Closed output: it ends no work, and nothing fails late."""

from __future__ import annotations

import errno
import io
import os
import subprocess
import sys
from typing import TextIO, cast

import pytest

from richkd.core.output import LastingStream, discard, flushed, lasting
from richkd.core.progress import Progress


class Failing(io.StringIO):
    """A stream that fails as a closed terminal, a full disk or a slow reader."""

    def __init__(self, error: OSError, times: int = 1_000) -> None:
        super().__init__()
        self.error, self.times = error, times

    def write(self, text: str) -> int:
        if self.times > 0:
            self.times -= 1
            raise self.error
        return super().write(text)


@pytest.mark.parametrize("number", [errno.EPIPE, errno.EIO, errno.ENOSPC, errno.EBADF])
def test_a_stream_that_failed_is_not_asked_again(number: int) -> None:
    below = Failing(OSError(number, os.strerror(number)), times=1)
    stream = LastingStream(below)
    for _ in range(3):
        print("epoch", file=cast(TextIO, stream), flush=True)
    assert stream.closed_by_reader
    assert below.getvalue() == ""


def test_a_slow_reader_loses_a_line_and_not_the_rest() -> None:
    below = Failing(BlockingIOError(errno.EAGAIN, "busy"), times=1)
    stream = LastingStream(below)
    stream.write("lost")
    stream.write("kept")
    assert below.getvalue() == "kept"


def test_closed_and_missing_streams_drop_what_is_written() -> None:
    closed = io.StringIO()
    closed.close()
    for stream in (LastingStream(closed), LastingStream(None)):
        stream.write("text")
        stream.flush()
        assert not stream.isatty()


def test_other_errors_are_not_hidden() -> None:
    ascii_only = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    with pytest.raises(UnicodeEncodeError):
        LastingStream(ascii_only).write("ä")


def test_what_works_is_passed_on(capsys: pytest.CaptureFixture[str]) -> None:
    before = sys.stdout
    with lasting("stdout", "stderr"):
        print("out")
        print("err", file=sys.stderr)
        assert sys.stdout.encoding == before.encoding
    assert sys.stdout is before
    assert capsys.readouterr() == ("out\n", "err\n")


def test_progress_goes_on_when_its_reader_has_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as broken:
        monkeypatch.setattr(sys, "stdout", broken)
        with Progress() as progress:
            for epoch in range(3):
                progress.start_epoch(epoch, 3, 1, 0)
                progress.advance(8, {})
                assert progress.end_epoch({})["images_per_second"] > 0
            progress.log("text")


def test_flushing_a_broken_pipe_says_so_once() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as broken:
        broken.write("text")
        assert not flushed(broken)
        assert flushed(broken)
    assert flushed(None)
    assert flushed(io.StringIO())
    discard(None)


def test_a_process_whose_reader_has_ended_ends_well() -> None:
    script = (
        "import sys; from richkd.core.output import lasting\n"
        "sys.stdin.readline()\n"
        "with lasting('stdout', 'stderr'):\n"
        "    for number in range(9): print(number); print(number, file=sys.stderr)\n"
    )
    words = [sys.executable, "-c", script]
    pipe = subprocess.PIPE
    with subprocess.Popen(words, stdin=pipe, stdout=pipe, stderr=pipe) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        assert child.stderr is not None
        child.stdout.close()
        child.stderr.close()
        child.stdin.write(b"\n")
        child.stdin.close()
        assert child.wait(60) == 0
