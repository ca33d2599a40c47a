"""How long a queue will take."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from richkd.compare.first import FirstRun
from richkd.compare.runs import AnyRun, Cell, PlannedRun
from richkd.compare.time_left import TimeLeft
from richkd.config.schema import Config
from richkd.core.json_text import to_json

EPOCHS = 4


def planned(out: Path, method: str, seed: int) -> PlannedRun:
    return PlannedRun(
        f"{method}-s{seed}", method, None, Cell("", "", EPOCHS), seed, config(out, f"{method}-s{seed}")
    )


def first(out: Path) -> FirstRun:
    return FirstRun("first/teacher", "teacher", "", config(out, "teacher"))


def config(out: Path, name: str) -> Config:
    settings = {"data": {"path": "."}, "student": {"name": "resnet18"}, "train": {"epochs": EPOCHS}}
    return Config.model_validate(settings | {"out": str(out / name)})


def time(run: AnyRun, seconds: Sequence[float]) -> None:
    folder = Path(run.config.out)
    folder.mkdir(exist_ok=True)
    (folder / "timing.jsonl").write_text("".join(to_json({"epoch": 0, "seconds": s}) + "\n" for s in seconds))


def test_epochs_of_a_method_take_as_long_as_those_of_its_other_seeds(tmp_path: Path) -> None:
    runs = [planned(tmp_path, method, seed) for method in ("kd", "crd") for seed in (0, 1)]
    left = TimeLeft(runs, 2, {})
    time(runs[0], [10, 10, 10, 10])
    time(runs[2], [30, 30])
    # kd-s1: 4 x 10, crd-s0: 2 x 30, crd-s1: 4 x 30. 100 seconds of epochs took 50: two runs at once.
    assert left.seconds({"kd-s0"}, 50.0) == pytest.approx((40 + 60 + 120) / 2)


def test_another_method_is_estimated_by_all_methods_but_not_by_a_first_run(tmp_path: Path) -> None:
    runs: list[AnyRun] = [first(tmp_path), planned(tmp_path, "kd", 0), planned(tmp_path, "crd", 0)]
    left = TimeLeft(runs, 1, {})
    time(runs[0], [1000, 1000])
    assert left.seconds(set(), 2000.0) is None
    time(runs[0], [1000] * EPOCHS)
    assert left.seconds({"first/teacher"}, 4000.0) is None
    time(runs[1], [10, 10])
    assert left.seconds({"first/teacher"}, 4020.0) == pytest.approx(2 * 10 + 4 * 10)


def test_a_single_first_run_does_not_halve_the_rate_of_two_runs_at_once(tmp_path: Path) -> None:
    runs: list[AnyRun] = [first(tmp_path), *(planned(tmp_path, "kd", seed) for seed in range(2))]
    left = TimeLeft(runs, 2, {})
    time(runs[0], [100] * EPOCHS)
    left.seconds({"first/teacher"}, 400.0)
    time(runs[1], [10, 10])
    time(runs[2], [10, 10])
    assert left.seconds({"first/teacher"}, 420.0) == pytest.approx(2 * 10)


def test_epochs_of_another_method_are_as_long_for_as_many_images(tmp_path: Path) -> None:
    runs = [planned(tmp_path, "kd", 0), planned(tmp_path, "ce", 0)]
    left = TimeLeft(runs, 1, {"kd-s0": 500, "ce-s0": 100})
    time(runs[0], [10] * EPOCHS)
    assert left.seconds({"kd-s0"}, 40.0) == pytest.approx(EPOCHS * 10 / 5)


def test_a_failed_run_takes_no_more_time(tmp_path: Path) -> None:
    runs = [planned(tmp_path, "kd", seed) for seed in (0, 1, 2)]
    left = TimeLeft(runs, 1, {})
    time(runs[0], [10])
    time(runs[1], [10] * EPOCHS)
    assert left.seconds({"kd-s0", "kd-s1"}, 50.0) == pytest.approx(40)


def test_epochs_of_an_earlier_session_do_not_count_for_the_rate(tmp_path: Path) -> None:
    runs = [planned(tmp_path, "kd", seed) for seed in (0, 1)]
    time(runs[0], [10] * EPOCHS)
    left = TimeLeft(runs, 1, {})
    assert left.seconds({"kd-s0"}, 1.0) is None
    time(runs[1], [10])
    # One epoch in 20 seconds, and the one that is assumed to take no more time than its own.
    assert left.seconds({"kd-s0"}, 20.0) == pytest.approx(3 * 10 / (20 / 30))


def test_a_short_rest_of_an_epoch_does_not_make_the_rate(tmp_path: Path) -> None:
    runs = [planned(tmp_path, "kd", seed) for seed in (0, 1, 2)]
    time(runs[0], [10] * EPOCHS)
    left = TimeLeft(runs, 2, {})
    # Two runs were resumed; after half a minute, one has ended an epoch of which little was left.
    time(runs[1], [0.1])
    seconds = left.seconds({"kd-s0"}, 30.0)
    assert seconds is not None
    assert seconds < 4 * (3 + EPOCHS) * 10 / 2
