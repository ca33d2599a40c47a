"""One recipe gives the same training on any number of processes, which stop together and go on together."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from richkd.training.run import distill
from tests.distributed.spies import watching
from tests.distributed.starts import Run, lines, result, work
from tests.fixtures import World

pytestmark = pytest.mark.slow

PLAIN = {"student__name": "tests.fixtures:PlainNet"}
# Few, small steps: rounding must not grow to a difference that could hide an error.
SMALL = {"optim__lr": 0.002, "train__epochs": 1, "train__trackers": ()}
RUNS: dict[str, dict[str, Any]] = {
    "lf-plain": {**PLAIN, "train__batch_size": 7},
    "lf-norm": {"train__batch_size": 8, "train__epochs": 2},
    "l-mixed": {
        "method__variant": "l",
        "train__batch_size": 9,
        "augment__mixup_alpha": 0.4,
        "augment__cutmix_alpha": 1.0,
        "train__ema_decay": 0.9,
    },
    "f-parts": {
        **PLAIN,
        "method__variant": "f",
        "train__batch_size": 11,
        "train__grad_accum_steps": 2,
        "objective.contrastive.negatives": "queue",
    },
    "kd-drawn": {
        "method__name": "kd",
        "student__name": "tests.distributed.students:NoisyNet",
        "train__batch_size": 10,
        "optim__max_grad_norm": 1.0,
    },
    "fitnet-norm": {"method__name": "fitnet", "train__batch_size": 5},
    "rkd-mixed": {"method__name": "rkd", "train__batch_size": 13, "augment__mixup_alpha": 0.4},
    # Fewer images than processes.
    "ofd-two": {"method__name": "ofd", "train__batch_size": 2},
    "views": {
        **PLAIN,
        "augment__policy": "random-resized-crop",
        "train__batch_size": 7,
        "method__variant": "l",
    },
}


# One start of processes for each group of runs.
GROUPS = {
    "two": (2, tuple(RUNS)),
    "three": (3, ("lf-plain", "kd-drawn", "ofd-two", "rkd-mixed")),
    "three, others": (3, ("lf-norm", "l-mixed", "f-parts", "fitnet-norm", "views")),
    "four": (4, tuple(RUNS)),
}
CASES = [
    pytest.param(group, name, id=f"{name}, {group}") for group, (_, names) in GROUPS.items() for name in names
]
SHORT = {**SMALL, "train__batch_size": 7, "train__epochs": 2}
# Stops on which two processes agree, so that they can go on with the next run; each ends as "whole".
STOPS: list[Run] = [
    ("whole", SHORT, {}, "whole"),
    ("nan", SHORT | PLAIN, {"spies": {"nan": [1, 2]}}, "nan"),
    ("unreadable", SHORT, {"spies": {"unreadable": [1, 3]}}, "unreadable"),
    ("unreadable+", SHORT, {"resume": True}, "unreadable"),
    ("stopped", SHORT, {"spies": {"term": [1, 1]}}, "stopped"),
    ("stopped+", SHORT, {"resume": True}, "stopped"),
]
SAME = ("metrics.jsonl", "checkpoints/last.ckpt", "student/model.safetensors")


def settings(name: str) -> dict[str, Any]:
    return SMALL | RUNS[name]


@pytest.fixture(scope="module")
def alone(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The runs of one process."""
    folder = tmp_path_factory.mktemp("alone")
    for name in RUNS:
        with watching({}) as seen:
            distill(world.config(folder / name, **settings(name)), quiet=True)
        (folder / f"{name}.0.json").write_text(json.dumps({"seen": seen}))
    return folder


@pytest.fixture(scope="module")
def together(world: World, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Runs the runs of a group in several processes, which are started once."""

    @cache
    def started(group: str) -> Path:
        count, names = GROUPS[group]
        folder = tmp_path_factory.mktemp("together")
        runs = [(name, settings(name), {}, name) for name in names] + (STOPS if group == "two" else [])
        status, output = work(world, folder, count, runs)
        assert status == 0, output
        return folder

    return started


@pytest.mark.parametrize(("group", "name"), CASES)
def test_losses_and_figures_are_those_of_one_process(
    group: str, name: str, alone: Path, together: Callable[[str], Path]
) -> None:
    folder = together(group)
    expected, got = lines(alone / name), lines(folder / name)
    assert [list(line) for line in got] == [list(line) for line in expected]
    for line, other in zip(expected, got, strict=True):
        for what, value in line.items():
            # Rounding of tiny losses is relative to the logits.
            bound = 2e-6 if what.startswith("train/") else 2e-5
            assert other[what] == pytest.approx(value, rel=bound, abs=1e-9), what
    summaries = [
        json.loads(file.read_text())["summary"] for file in sorted(folder.glob(f"{name}.[0-9].json"))
    ]
    assert len(summaries) == GROUPS[group][0]
    wanted = json.loads((alone / name / "summary.json").read_text())
    for summary in summaries:
        assert summary["splits"] == summaries[0]["splits"]
        assert summary["steps"] == wanted["steps"]
        assert list(summary["splits"]) == list(wanted["splits"])


@pytest.mark.parametrize(("group", "name"), CASES)
def test_every_image_is_decoded_trained_and_evaluated_once(
    group: str, name: str, alone: Path, together: Callable[[str], Path]
) -> None:
    shares = [json.loads(file.read_text())["seen"] for file in together(group).glob(f"{name}.[0-9].json")]
    expected = result(alone, name)["seen"]
    for what, count in expected.items():
        assert sum(share[what] for share in shares) == count, what
    # No process does much more than its share.
    assert max(share["decoded"] for share in shares) <= expected["decoded"] / len(shares) + 2


@pytest.fixture(scope="module")
def two(together: Callable[[str], Path]) -> Path:
    """The runs of two processes."""
    return together("two")


def errors(folder: Path, name: str) -> list[Any]:
    return [result(folder, name, rank).get("error") for rank in (0, 1)]


def test_nan_in_one_process_stops_all_and_names_process_step_and_images(two: Path) -> None:
    first, second = errors(two, "nan")
    assert first == second
    assert first[0] == "NonFiniteError"
    assert "at step 2 (epoch 0)" in first[1]
    assert "of process 1 of 2" in first[1]
    assert "images train/" in first[1]
    assert not (two / "nan" / "checkpoints" / "last.ckpt").exists()


def test_unreadable_images_of_one_process_stop_all_with_a_checkpoint(two: Path) -> None:
    first, second = errors(two, "unreadable")
    assert first == second
    assert "Image 7.png must be readable" in first[1]
    assert "A checkpoint of step 3 was saved" in first[1]


def test_a_signal_to_one_process_stops_all(two: Path) -> None:
    assert [result(two, "stopped", rank).get("stopped") for rank in (0, 1)] == [True, True]


@pytest.mark.parametrize("name", ["unreadable", "stopped"])
def test_a_resumed_run_has_the_bytes_of_an_uninterrupted_one(name: str, two: Path) -> None:
    for file in SAME:
        assert (two / name / file).read_bytes() == (two / "whole" / file).read_bytes(), file
