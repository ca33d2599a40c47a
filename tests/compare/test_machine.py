"""How many runs the machine computes at once, and with how many threads."""

from __future__ import annotations

from pathlib import Path

import pytest

from richkd.compare import machine
from richkd.compare.machine import default_jobs, threads_of_runs
from richkd.compare.runs import Cell, PlannedRun
from richkd.config.schema import Config


def runs(count: int, gigabytes: float = 1.0) -> list[PlannedRun]:
    settings = {"data": {"path": ".", "in_memory_gb": gigabytes}, "student": {"name": "resnet18"}}
    config = Config.model_validate(settings | {"train": {"device": "cpu"}})
    return [PlannedRun(str(n), "kd", None, Cell("", "", 1), n, config) for n in range(count)]


@pytest.mark.parametrize(
    ("cores", "free", "count", "expected"),
    [
        (16, 100.0, 20, 8),
        (16, 100.0, 3, 3),
        (16, 9.0, 20, 2),
        (1, 100.0, 20, 1),
        (16, 0.1, 20, 1),
        (2, 9, 0, 1),
    ],
)
def test_jobs_follow_from_cores_memory_and_runs(
    cores: int, free: float, count: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "cores", lambda: cores)
    monkeypatch.setattr(machine, "free_gigabytes", lambda: free)
    assert default_jobs(runs(count)) == expected


def test_threads_are_those_of_the_beginning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "cores", lambda: 8)
    assert threads_of_runs(tmp_path, {"runs": 2}) == {"runs": 4}
    assert threads_of_runs(tmp_path, {"runs": 8}) == {"runs": 4}
    assert threads_of_runs(tmp_path, {"runs": 8, "first": 1}) == {"runs": 4, "first": 8}
    for damaged in ("", "[]", '{"runs": "x"}', '{"runs": 0}', "null"):
        (tmp_path / "threads.json").write_text(damaged)
        assert threads_of_runs(tmp_path, {"runs": 16}) == {"runs": 1}


def test_the_memory_of_this_machine_is_read() -> None:
    assert 0 < machine.free_gigabytes() < 1e6
    assert machine.cores() >= 1
