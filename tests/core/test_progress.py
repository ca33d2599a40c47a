"""Times of the epochs of a training run."""

from __future__ import annotations

import pytest

from richkd.core.progress import Progress


@pytest.mark.parametrize(
    ("done", "seconds"),
    [
        pytest.param(0, 6.0, id="whole epoch"),
        pytest.param(6, 24.0, id="three quarters before the run was resumed"),
        pytest.param(8, 6.0, id="only the validation is left"),
    ],
)
def test_the_time_of_a_resumed_epoch_is_that_of_the_whole_epoch(
    done: int, seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter([100.0, 106.0])
    progress = Progress(quiet=True)
    monkeypatch.setattr("richkd.core.progress.time.perf_counter", lambda: next(clock))
    progress.start_epoch(0, epochs=1, steps=8, done=done)
    timing = progress.end_epoch({})
    assert timing["seconds"] == seconds


def test_an_epoch_of_which_this_process_has_no_step(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([100.0, 101.0])
    progress = Progress(quiet=True)
    monkeypatch.setattr("richkd.core.progress.time.perf_counter", lambda: next(clock))
    progress.start_epoch(0, epochs=1, steps=0, done=0)
    assert progress.end_epoch({})["seconds"] == 1.0
