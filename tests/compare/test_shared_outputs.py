"""Runs of a queue that need the same teacher outputs do not compute them at the same time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from richkd.compare.shared_outputs import SharedOutputs, needed_outputs
from richkd.compare.worker import Job
from richkd.config.schema import Config
from richkd.training.run_folder import RunFolder
from tests.compare.plans import content, run, runs_of, write
from tests.fixtures import World

TEACHER, CLIP = {"name": "cifar_resnet56"}, {"name": "local-dir:clip"}


def job(name: str, **changes: Any) -> Job:
    content = {"data": {"path": "."}, "student": {"name": "resnet18"}, "cache": {"dir": "cache"}} | changes
    return Job(name, Config.model_validate(content), None, Path("log"))


def seeded(name: str, seed: int, **changes: Any) -> Job:
    return job(name, teachers=[TEACHER], train={"seed": seed}, **changes)


def test_another_seed_comes_before_a_run_that_would_compute_the_same() -> None:
    shared, kd, other = SharedOutputs(), seeded("kd-s0", 0), seeded("kd-s1", 1)
    again, labels = seeded("richkd-s0", 0, clip=CLIP), job("ce-s0")
    assert shared.choose([kd, again, other], []) is kd
    assert shared.choose([again, other], [kd]) is other
    assert shared.choose([again, labels], [kd, other]) is labels
    # Nobody waits for a run of the same outputs if there is nothing else to do.
    assert shared.choose([again], [kd, other]) is again
    shared.ended(kd)
    assert shared.choose([again, seeded("dkd-s1", 1)], [other]) is again


@pytest.mark.parametrize(
    "changes",
    [
        {"train": {"seed": 1}},
        {"augment": {"pad": 2}},
        {"data": {"path": ".", "labels_per_class": 2}},
        {"teachers": [TEACHER | {"size": 64}]},
    ],
)
def test_other_views_images_or_teachers_are_other_outputs(changes: dict[str, Any]) -> None:
    first, other = seeded("a", 0), job("b", **({"teachers": [TEACHER], "train": {"seed": 0}} | changes))
    assert needed_outputs(first.config).isdisjoint(needed_outputs(other.config))


def test_settings_of_the_student_change_nothing() -> None:
    first = seeded("a", 0)
    other = job("b", teachers=[TEACHER], train={"seed": 0, "epochs": 7}, optim={"lr": 0.5})
    assert needed_outputs(first.config) == needed_outputs(other.config)


def test_outputs_that_are_not_computed_or_not_stored_are_shared_by_nobody() -> None:
    assert not needed_outputs(job("a", clip={"name": "outputs:clip.npz"}).config)
    assert not needed_outputs(job("a", teachers=[{"name": "cache:teacher"}]).config)
    assert not needed_outputs(seeded("a", 0, cache={"dir": None}).config)
    assert len(needed_outputs(seeded("a", 0, clip=CLIP).config)) == 2


@pytest.mark.slow
def test_each_output_is_computed_by_one_run(world: World, tmp_path: Path) -> None:
    methods = {"kd": None, "dkd": None}
    plan = content(world, methods=methods, controls=False, budgets=[6], cache=str(tmp_path / "cache"))
    del plan["base"]["clip"]
    path = write(tmp_path, plan)
    run(path, tmp_path / "out", jobs=2)
    for one in runs_of(path):
        summary = RunFolder(one.config.out).summary()
        assert summary is not None
        (computed,) = summary["images_through_teachers"].values()
        assert (computed == 0) == (one.method == "dkd"), one.name
