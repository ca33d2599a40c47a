"""What a run logs about its teachers before training."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from richkd.core.types import Output
from richkd.metrics.accuracy import measure
from richkd.pipeline.assemble import Parts, assemble
from richkd.pipeline.teacher_check import log_accuracy, report_sizes, report_teachers
from richkd.teachers.predict import outputs_of
from tests.fixtures import SIZE, World

CPU = torch.device("cpu")


def opened(world: World, folder: Path, **changes: Any) -> Parts:
    return assemble(world.config(folder / "run", **changes), CPU)


def logged(report: Any, parts: Parts) -> list[str]:
    lines: list[str] = []
    report(parts, lines.append)
    return lines


def test_the_accuracy_on_held_out_images_is_that_of_all_of_them(world: World, tmp_path: Path) -> None:
    parts = opened(world, tmp_path)
    lines = logged(report_teachers, parts)
    accuracies = [line for line in lines if "accuracy" in line]
    assert len(accuracies) == len(parts.teachers) == 2
    for teacher, line in zip(parts.teachers, accuracies, strict=True):
        store = parts.stores.clean("val", teacher.framing)
        logits_NC = outputs_of(teacher, store, CPU).logits_BC * teacher.logit_scale
        top1 = measure(logits_NC, store.split.labels_N).top1
        assert line == f"{teacher.role} {teacher.name}: accuracy {top1:.1%} on 12 images of val"


def test_a_teacher_near_chance_is_suspected(world: World, tmp_path: Path) -> None:
    # The teacher of the small world is not trained.
    assert any("near chance (33.3%)" in line for line in logged(report_teachers, opened(world, tmp_path)))


def test_the_advice_near_chance_depends_on_the_teacher() -> None:
    logits_NC, labels_N = torch.eye(3).repeat(20, 1).roll(1, dims=1), torch.arange(3).repeat(20)
    for role, advice, other in (
        ("teacher", "another order", "--clip.prompts"),
        ("CLIP", "--clip.prompts", "another order"),
    ):
        lines: list[str] = []
        teacher: Any = SimpleNamespace(role=role, name="x", logit_scale=1.0)
        log_accuracy(teacher, Output(logits_NC, logits_NC), labels_N, "images of val", lines.append)
        assert advice in lines[1]
        assert other not in lines[1]


@pytest.mark.parametrize("changes", [{"data__val_fraction": 0.0}, {"fusion__control": "shuffled"}])
def test_nothing_is_said_without_held_out_images_or_for_a_control(
    world: World, tmp_path: Path, changes: dict[str, Any]
) -> None:
    settings = {"fusion__preset": "paper", "method__variant": "l", **changes}
    assert logged(report_teachers, opened(world, tmp_path, **settings)) == []


def test_with_a_cache_nothing_is_computed_twice(world: World, tmp_path: Path) -> None:
    parts = opened(world, tmp_path, method__name="kd", cache__dir=str(tmp_path / "cache"))
    (teacher,) = parts.teachers
    logged(report_teachers, parts)
    assert teacher.computed == len(parts.data.splits["val"])
    outputs_of(teacher, parts.stores.clean("val", teacher.framing), CPU)
    logged(report_teachers, parts)
    assert teacher.computed == len(parts.data.splits["val"])


def test_equal_resolutions_need_no_words(world: World, tmp_path: Path) -> None:
    assert logged(report_sizes, opened(world, tmp_path)) == []


@pytest.mark.parametrize(("source", "warns"), [(None, False), (SIZE // 2, True), (2 * SIZE, False)])
def test_training_images_that_are_smaller_than_a_teachers_input_are_named(
    world: World, tmp_path: Path, source: int | None, warns: bool
) -> None:
    parts = opened(world, tmp_path, method__name="kd", student__size=SIZE // 2, data__size=source)
    lines = logged(report_sizes, parts)
    # By default, training images are as large as the largest input.
    assert lines[0].startswith(f"resolution: student {SIZE // 2} px, teacher ")
    assert lines[0].endswith(f" {SIZE} px; training images {source or SIZE} px")
    assert [f"less than the input of a network ({SIZE} px)" in line for line in lines[1:]] == [True] * warns
