"""Waits of more than two seconds are shown, in plain lines, and only by commands."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator

import pytest

from richkd.core import waiting as module
from richkd.core.waiting import Schedule, Wait, clock, still, waiting, waits_shown

Capture = pytest.CaptureFixture[str]


class Clock:
    """A clock that stands still between two steps."""

    def __init__(self) -> None:
        self.time = 100.0

    def __call__(self) -> float:
        return self.time


@pytest.fixture
def now(monkeypatch: pytest.MonkeyPatch) -> Clock:
    fake = Clock()
    monkeypatch.setattr(module, "Schedule", lambda first=module.FIRST: Schedule(first, fake))
    return fake


def work(now: Clock, items: int, seconds: float) -> Iterator[int]:
    for item in range(items):
        now.time += seconds
        yield item


def test_lines_are_at_growing_intervals_and_then_once_a_minute(now: Clock) -> None:
    schedule, times = Schedule(now=now), []
    for _ in range(400):
        now.time += 1
        if schedule.due():
            times.append(round(now.time - 100))
    assert times == [2, 4, 8, 16, 32, 64, 124, 184, 244, 304, 364]


def test_a_long_wait_says_how_much_is_done_and_how_long_it_took(now: Clock, capsys: Capture) -> None:
    with waits_shown():
        assert list(waiting("decoding train", work(now, 10, 1.5), total=10)) == list(range(10))
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "decoding train: 2 of 10 images, 0:12 left",
        "decoding train: 4 of 10 images, 0:09 left",
        "decoding train: 8 of 10 images, 0:03 left",
        "decoding train: 10 images in 15.0 s",
    ]


def test_a_short_wait_says_nothing(now: Clock, capsys: Capture) -> None:
    with waits_shown():
        list(waiting("decoding", work(now, 10, 0.1), total=10))
    assert capsys.readouterr() == ("", "")


def test_the_library_says_nothing(now: Clock, capsys: Capture) -> None:
    list(waiting("decoding", work(now, 10, 9.0), total=10))
    with still("measuring"):
        time.sleep(0.01)
    assert capsys.readouterr() == ("", "")


def test_other_processes_than_the_first_say_nothing(
    now: Clock, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "1")
    with waits_shown():
        list(waiting("decoding", work(now, 10, 9.0), total=10))
    assert capsys.readouterr().err == ""


def test_names_are_shown_without_control_characters(now: Clock, capsys: Capture) -> None:
    with waits_shown():
        list(waiting("decoding \x1b[2J", work(now, 3, 9.0), total=3))
    assert "\x1b" not in capsys.readouterr().err


def test_counts_of_items(now: Clock, capsys: Capture) -> None:
    def batches() -> Iterator[list[int]]:
        for batch in ([1, 2, 3], [4, 5], [6]):
            now.time += 3
            yield batch

    with waits_shown():
        list(waiting("evaluating", batches(), total=6, unit="pictures", count=len))
    err = capsys.readouterr().err
    assert re.search(r"evaluating: [35] of 6 pictures, \d:\d\d left", err)
    assert "evaluating: 6 pictures in 9.0 s" in err


def test_an_error_ends_the_wait_and_nothing_is_said_afterwards(capsys: Capture) -> None:
    with waits_shown(), pytest.raises(OSError, match="disk"), still("measuring"):
        raise OSError("disk")
    assert capsys.readouterr().err == ""


def test_what_cannot_be_counted_is_said_while_it_lasts(capsys: Capture) -> None:
    with waits_shown(), still("measuring precisions", first=0.05):
        time.sleep(0.5)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) >= 2
    assert set(lines) == {"measuring precisions: 0 s so far"}


def test_waits_are_nested_as_their_contexts_are() -> None:
    with waits_shown():
        with waits_shown():
            pass
        assert module._shown
    assert not module._shown


def test_nothing_left_is_never_divided_by_nothing(now: Clock) -> None:
    with waits_shown():
        wait = Wait("reading", 5)
        now.time += 9
        wait.advance(0)
        wait.end()
    assert clock(0.4) == "0:00"
