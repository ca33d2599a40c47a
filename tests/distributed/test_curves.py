"""One recipe gives the same training on any number of processes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from richkd.training.run import distill
from tests.distributed.spies import watching
from tests.distributed.starts import lines, result, work
from tests.fixtures import World

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


@pytest.fixture(
    scope="module",
    params=[2, 3, pytest.param(4, marks=pytest.mark.slow)],
    ids=["two processes", "three processes", "four processes"],
)
def together(request: pytest.FixtureRequest, world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same runs of several processes, which are started once."""
    folder = tmp_path_factory.mktemp("together")
    status, output = work(world, folder, request.param, [(name, settings(name), {}, name) for name in RUNS])
    assert status == 0, output
    return folder


@pytest.mark.parametrize("name", RUNS)
def test_losses_and_figures_are_those_of_one_process(name: str, alone: Path, together: Path) -> None:
    expected, got = lines(alone / name), lines(together / name)
    assert [list(line) for line in got] == [list(line) for line in expected]
    for line, other in zip(expected, got, strict=True):
        for what, value in line.items():
            # Rounding of tiny losses is relative to the logits.
            bound = 2e-6 if what.startswith("train/") else 2e-5
            assert other[what] == pytest.approx(value, rel=bound, abs=1e-9), what


@pytest.mark.parametrize("name", RUNS)
def test_every_image_is_decoded_trained_and_evaluated_once(name: str, alone: Path, together: Path) -> None:
    shares = [json.loads(file.read_text())["seen"] for file in together.glob(f"{name}.*.json")]
    expected = result(alone, name)["seen"]
    for what in ("trained", "evaluated") if name == "views" else expected:
        assert sum(share[what] for share in shares) == expected[what], what
    # No process does much more than its share.
    assert max(share["decoded"] for share in shares) <= expected["decoded"] / len(shares) + 2


def test_the_state_is_the_same_in_all_processes_and_figures_are_of_all_images(
    alone: Path, together: Path
) -> None:
    for name in RUNS:
        summaries = [json.loads(file.read_text())["summary"] for file in together.glob(f"{name}.*.json")]
        for summary in summaries:
            assert summary["splits"] == summaries[0]["splits"]
        wanted = json.loads((alone / name / "summary.json").read_text())
        assert summaries[0]["steps"] == wanted["steps"]
        assert list(summaries[0]["splits"]) == list(wanted["splits"])
