"""Targets of loss terms and their teachers: what each target is, and which teachers are refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from richkd.core.errors import ConfigError, RichKDError
from richkd.methods.objective import read_objective
from richkd.pipeline.assemble import Parts, assemble
from richkd.pipeline.roles import Roles, assign_roles
from tests.fixtures import World, make_teacher, refusal

CPU = torch.device("cpu")
NO_TEACHER: dict[str, Any] = {"teachers__1__name": None}


@pytest.fixture(scope="module")
def second(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The name of a second vision teacher."""
    folder = tmp_path_factory.mktemp("roles") / "second"
    make_teacher(folder, seed=6)
    return f"local-dir:{folder}"


def everyone(world: World, second: str | None, *terms: dict[str, Any]) -> dict[str, Any]:
    """Settings of vision teachers and a CLIP, and of a list of terms that is the whole objective."""
    return {
        "teachers__1__name": f"local-dir:{world.teacher}",
        "teachers__2__name": second,
        "clip__name": f"outputs:{world.clip}",
        "fusion__preset": "paper",
        "objective": [*terms],
    }


def kd(target: str, **settings: Any) -> dict[str, Any]:
    """A KD term whose label is its target."""
    return {f"kd-{target}": {"term": "kd", "target": target, **settings}}


def roles_of(world: World, **changes: Any) -> Roles:
    config = world.config(Path("unused"), **changes)
    return assign_roles(config, read_objective(config))


def parts_of(world: World, **changes: Any) -> Parts:
    return assemble(world.config(Path("unused"), **changes), CPU)


def refused(world: World, **changes: Any) -> ConfigError:
    """The error of settings that `assign_roles` refuses, before any data are opened."""
    error: RichKDError = refusal(roles_of, world, **changes)
    assert isinstance(error, ConfigError)
    return error


@pytest.mark.parametrize(
    ("target", "vision", "clip"),
    [
        ("fused", (0, 1), True),
        ("teacher", (0, 1), False),
        ("teacher-1", (0,), False),
        ("teacher-2", (1,), False),
        ("clip", (), True),
    ],
)
def test_each_target_has_its_teachers(
    world: World, second: str, target: str, vision: tuple[int, ...], clip: bool
) -> None:
    # A second term reads everyone, so that no teacher is without a purpose.
    roles = roles_of(world, **everyone(world, second, kd(target), {"all": {"term": "kd", "target": "fused"}}))
    assert (roles.vision[target], roles.clip[target]) == (vision, clip)
    assert roles.targets[0] == "fused"
    assert roles.needs_clip


def test_targets_are_the_fusions_of_their_own_teachers(world: World, second: str) -> None:
    targets = ("teacher-2", "clip", "teacher", "teacher-1", "fused")
    parts = parts_of(world, **everyone(world, second, {"ce": {}}, *map(kd, targets)))
    first, other = f"local-dir:{world.teacher}", second
    clip = "CLIP outputs"
    names = {target: [t.name for t in source.teachers] for target, source in parts.sources.items()}
    assert names == {
        "fused": [first, other, clip],
        "teacher": [first, other],
        "teacher-1": [first],
        "teacher-2": [other],
        "clip": [clip],
    }
    assert next(iter(parts.sources)) == "fused"
    assert [teacher.name for teacher in parts.teachers] == [first, other, clip]
    # The multipliers of preset "paper": alpha 0.7 for the vision teachers, CLIP at its logit scale of 100.
    multipliers = {target: source.fusion.multipliers for target, source in parts.sources.items()}
    assert multipliers["fused"] == pytest.approx((0.35, 0.35, 30.0))
    assert multipliers["teacher"] == pytest.approx((0.5, 0.5))
    assert multipliers["teacher-1"] == multipliers["teacher-2"] == (1.0,)
    assert multipliers["clip"] == pytest.approx((100.0,))


def test_terms_get_the_logits_of_their_target_and_each_teacher_computes_once(
    world: World, second: str
) -> None:
    targets = ("fused", "teacher", "teacher-2", "clip")
    parts = parts_of(world, **everyone(world, second, *map(kd, targets)))
    (batch,) = parts.training_batches(0, [torch.arange(6)])
    batch = batch.to(CPU)
    given = parts.teach(batch, 0)
    views = parts.augmentation.draw(parts.config.train.seed, 0, batch.index_B)
    computed = [teacher.computed for teacher in parts.teachers]
    assert computed == [6, 6, 0]
    one, two, clip = (teacher.outputs(batch, views).logits_BC for teacher in parts.teachers)
    logs = [one.log_softmax(1), two.log_softmax(1), (100 * clip).log_softmax(1)]
    expected = {
        "fused": 0.35 * logs[0] + 0.35 * logs[1] + 0.3 * logs[2],
        "teacher": (logs[0] + logs[1]) / 2,
        "teacher-2": logs[1],
        "clip": logs[2],
    }
    assert given.keys() == expected.keys()
    for target, logits_BC in expected.items():
        # Logits are equal up to a constant of each image.
        result = given[target].logits_BC.log_softmax(1)
        torch.testing.assert_close(result, logits_BC.log_softmax(1), rtol=1e-4, atol=1e-4)


def test_vision_teachers_come_before_the_clip_whatever_the_order_of_terms(world: World) -> None:
    terms = [kd("clip"), kd("teacher")]
    parts = parts_of(world, **everyone(world, None, *terms))
    assert [teacher.zero_shot is not None for teacher in parts.teachers] == [False, True]


def test_a_term_without_a_target_reads_labels_and_needs_no_teacher(world: World) -> None:
    roles = roles_of(world, method__name="ce")
    assert (roles.vision, roles.clip, roles.targets, roles.needs_clip) == ({}, {}, (), False)


def test_a_clip_that_no_term_reads_is_refused_by_name(world: World) -> None:
    error = refused(world, method__name="kd", clip__name=f"outputs:{world.clip}")
    assert error.rule == (
        f"The CLIP must be read by a loss term; --clip outputs:{world.clip} is read by none"
    )
    assert error.got == "terms ce (target labels), kd (target teacher)"
    assert "--method richkd" in str(error.fix)
    assert "--clip null" in str(error.fix)


def test_a_teacher_that_no_term_reads_is_refused_by_name(world: World) -> None:
    name = f"local-dir:{world.teacher}"
    error = refused(world, method__name="ce", teachers__1__name=name)
    assert error.rule == f"Every teacher must be read by a loss term; --teacher {name} is read by none"
    assert error.got == "terms ce (target labels)"
    assert "--method kd" in str(error.fix)


def test_a_second_teacher_that_no_term_reads_is_refused_by_name(world: World, second: str) -> None:
    changes = {"method__name": "kd", "teachers__2__name": second}
    error = refused(world, **changes, objective__kd__target="teacher-1")
    assert f"--teacher {second} is read by none" in error.rule
    assert error.got == "terms ce (target labels), kd (target teacher-1)"
    error = refused(world, **everyone(world, second, kd("clip"), kd("teacher-2")))
    assert f"--teacher local-dir:{world.teacher} is read by none" in error.rule


@pytest.mark.parametrize(
    ("target", "nearest"), [("fussed", "fused"), ("teachers", "teacher"), ("Clip", "clip")]
)
def test_an_unknown_target_is_refused_with_the_nearest(world: World, target: str, nearest: str) -> None:
    error = refused(world, method__name="kd", objective__kd__target=target)
    assert error.rule == f"objective.kd.target is '{target}', which this run does not have"
    assert f"'{nearest}'" in str(error.fix)


@pytest.mark.parametrize("target", ["teacher-3", "teacher-0", "teacher-02", "teacher-"])
def test_a_teacher_by_a_number_that_it_does_not_have_is_refused(
    world: World, second: str, target: str
) -> None:
    changes = {"method__name": "kd", "teachers__2__name": second}
    error = refused(world, **changes, objective__kd__target=target)
    assert error.rule == f"objective.kd.target is '{target}', which this run does not have"
    assert "'teacher-2'" in str(error.fix) or "'teacher'" in str(error.fix)


@pytest.mark.parametrize(
    ("changes", "rule", "fix"),
    [
        ({"method__name": "kd", **NO_TEACHER}, "is 'teacher', which needs a vision teacher", "--teacher"),
        (
            {"method__name": "kd", "objective__kd__target": "teacher-1", **NO_TEACHER},
            "needs a vision",
            "--teacher",
        ),
        (
            {"method__name": "kd", "objective__kd__target": "fused", **NO_TEACHER},
            "needs a teacher",
            "--teacher",
        ),
        (
            {"method__name": "kd", "objective__kd__target": "clip", "clip__name": None},
            "needs a CLIP",
            "--clip",
        ),
        ({"clip__name": None}, "Method richkd needs a CLIP", "--method kd"),
        (NO_TEACHER, "Method richkd needs a vision teacher", "--objective.kd.target clip"),
    ],
)
def test_teachers_that_a_target_needs_are_asked_for(
    world: World, changes: dict[str, Any], rule: str, fix: str
) -> None:
    error = refused(world, **changes)
    assert rule in error.rule
    assert error.got in ("no teacher", "no clip")
    assert fix in str(error.fix)


def test_fused_without_a_clip_is_the_mean_of_vision_teachers(world: World, second: str) -> None:
    changes = {"method__name": "kd", "teachers__2__name": second, "fusion__preset": "paper"}
    given = [parts_of(world, **changes, objective__kd__target=target) for target in ("fused", "teacher")]
    for parts in given:
        assert parts.fusion is not None
        assert parts.fusion.multipliers == pytest.approx((0.5, 0.5))
