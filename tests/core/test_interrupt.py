"""Signals ask a loop to stop, once; a closing terminal asks twice."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from richkd.core.interrupt import catch_stop_signals


class Ended(Exception):
    """A handler from before was called."""


def end(number: int, frame: object) -> None:
    raise Ended


@pytest.fixture(autouse=True)
def _handlers() -> Iterator[None]:
    """Handlers that a test can see being called, in place of those that end the process."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, end) for number in numbers}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_second_signal_ends_at_once(number: signal.Signals) -> None:
    with catch_stop_signals() as stop:
        assert not stop.requested
        signal.raise_signal(number)
        assert stop.requested
        with pytest.raises(Ended):
            signal.raise_signal(number)


def test_a_terminal_that_closes_may_say_so_again_and_again() -> None:
    with catch_stop_signals() as stop:
        for _ in range(3):
            signal.raise_signal(signal.SIGHUP)
            assert stop.requested
        with pytest.raises(Ended):
            signal.raise_signal(signal.SIGTERM)


def test_a_terminal_that_closes_after_ctrl_c_does_not_prevent_saving() -> None:
    with catch_stop_signals() as stop:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGHUP)
        assert stop.requested


def test_nohup_is_respected() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with catch_stop_signals() as stop:
        signal.raise_signal(signal.SIGHUP)
        assert not stop.requested
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
        signal.raise_signal(signal.SIGTERM)
        assert stop.requested
    assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN


def test_handlers_are_put_back() -> None:
    with catch_stop_signals():
        signal.raise_signal(signal.SIGHUP)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        assert signal.getsignal(number) is end
