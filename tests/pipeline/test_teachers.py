"""Opening teachers: choices that several runs share."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

from richkd.models.speed import SPEED, Speed, read_speeds
from richkd.pipeline.teachers import _record


def choice(number: int) -> dict[str, Any]:
    return asdict(Speed("fp32", False, {"fp32": float(number)}))


def test_runs_that_measure_at_the_same_time_use_the_first_choice(tmp_path: Path) -> None:
    path = tmp_path / "cache" / SPEED
    with ThreadPoolExecutor(8) as pool:
        choices = list(pool.map(lambda number: _record(path, "network", choice(number)), range(40)))
    # All runs compute the same outputs, so all of them can use one cache.
    assert len({json.dumps(each) for each in choices}) == 1
    assert read_speeds(path) == {"network": choices[0]}
    # A choice for another network does not remove it.
    assert _record(path, "other", choice(7)) == choice(7)
    assert set(read_speeds(path)) == {"network", "other"}
