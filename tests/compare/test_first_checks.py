"""Checks of runs whose teacher does not exist yet, and of images that a teacher was trained on."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest

from richkd.compare.plan import read_plan
from richkd.compare.validate import Checked, check_runs
from richkd.core.types import Batch, Output
from richkd.data.views import Views
from richkd.teachers.vision import VisionTeacher
from tests.compare.first_plans import TEACHER, with_first
from tests.compare.plans import runs_of, write
from tests.fixtures import World, refusal


def checked(path: Path, lines: list[str] | None = None) -> Checked:
    return check_runs(read_plan(path).plan, runs_of(path), [].append if lines is None else lines.append)


def test_runs_are_checked_with_an_untrained_teacher(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines: list[str] = []
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "scratch"))
    (tmp_path / "scratch").mkdir()
    path = write(tmp_path, with_first(world, cache=str(tmp_path / "cache")))
    result = checked(path, lines)
    assert result.budgets["first/teacher"] == "1 epoch of 48 images in batches of 8"
    assert result.provisional == {"kd-e1-s0", "richkd-e1-s0", "richkd-shuffled-e1-s0"}
    assert lines[0] == "checked: 4 runs, of which 0 are finished"
    assert (
        "first runs to do: run:teacher. Runs that need their models were checked with untrained" in lines[1]
    )
    # Nothing that an untrained teacher computes is stored, and nothing is left.
    assert not (tmp_path / "cache").exists()
    assert not (tmp_path / "out").exists()
    assert not list((tmp_path / "scratch").iterdir())


def test_an_untrained_teacher_computes_held_out_images_once_for_all_methods(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    computed: list[int] = []
    outputs = VisionTeacher.outputs

    def counted(teacher: VisionTeacher, batch: Batch, views: Views, *, maps: bool = False) -> Output:
        computed.append(len(batch.index_B))
        return outputs(teacher, batch, views, maps=maps)

    monkeypatch.setattr(VisionTeacher, "outputs", counted)
    methods = {"richkd": None, "second": {"method": "richkd", "method.variant": "l"}}
    checked(write(tmp_path, with_first(world, methods=methods, controls=False)))
    assert len(computed) == 1


def test_a_run_that_only_starts_from_a_first_run_needs_no_teacher(world: World, tmp_path: Path) -> None:
    methods = {"kd": None, "on": {"method": "ce", "student": {"name": "run:teacher"}}}
    plan = with_first(world, methods=methods, clip=False, allow_unequal_budgets=True)
    assert "on-e1-s0" in checked(write(tmp_path, plan)).provisional


def test_a_teacher_that_does_not_exist_yet_must_fit_its_methods(world: World, tmp_path: Path) -> None:
    flat = {"teacher": {"student": {"name": "tests.compare.flat:flat"}, "train.epochs": 1}}
    plan = with_first(world, flat, methods={"kd": None, "at": None}, clip=False)
    error = str(refusal(checked, write(tmp_path, plan)))
    assert "(at)" in error
    assert "2 problems" not in error


def test_a_first_run_that_cannot_run_is_one_problem(world: World, tmp_path: Path) -> None:
    wrong = {"teacher": {"student": {"name": "cifar_resnet9"}, "train.epochs": 1}}
    error = refusal(checked, write(tmp_path, with_first(world, wrong)))
    assert "cifar_resnet9" in str(error)
    assert "(run:teacher)" in str(error)
    assert not error.problems


@pytest.mark.slow
def test_runs_of_a_first_run_that_cannot_run_are_no_problems_of_their_own(
    world: World, tmp_path: Path
) -> None:
    first = {"teacher": TEACHER | {"folds": 400}}
    error = refusal(checked, write(tmp_path, with_first(world, first, methods={"kd": None}, clip=False)))
    assert "(run:teacher)" in str(error)
    assert not error.problems


def test_models_beside_imported_outputs_are_checked_later(world: World, tmp_path: Path) -> None:
    lines: list[str] = []
    both = [{"name": "run:teacher"}, {"name": "cache:stored"}]
    changes = {"cache": str(tmp_path / "cache"), "methods": {"kd": {"teachers": both}, "ce": None}}
    checked(write(tmp_path, with_first(world, clip=False, **changes)), lines)
    assert lines[-1] == "models that are checked when their runs start: kd"
    assert not (tmp_path / "cache").exists()


def test_features_of_folds_are_refused_before_the_folds_are_trained(world: World, tmp_path: Path) -> None:
    methods = {"kd": None, "richkd": None}
    plan = with_first(world, {"teacher": TEACHER | {"folds": 2}}, methods=methods, controls=False)
    assert "Out-of-fold teachers" in str(refusal(checked, write(tmp_path, plan)))
    plan["methods"] = {"kd": None, "richkd": {"method.variant": "l"}}
    result = checked(write(tmp_path, plan))
    assert {"first/teacher/fold-0", "first/teacher/fold-1"} <= result.budgets.keys()


def test_budgets_are_compared_among_methods_only(world: World, tmp_path: Path) -> None:
    first = {"teacher": TEACHER | {"train": {"epochs": 7, "batch_size": 4}}}
    del first["teacher"]["train.epochs"]
    assert checked(write(tmp_path, with_first(world, first))).budgets["first/teacher"].startswith("7 epochs")


def divided_by_seed(world: World, first: dict[str, Any], **changes: Any) -> dict[str, Any]:
    plan = with_first(world, first, seeds=[0, 1], controls=False, **changes)
    plan["base"]["data"] = {"path": str(world.images), "val_fraction": 0.25}
    return plan


def test_a_teacher_that_was_trained_on_held_out_images_is_a_warning(world: World, tmp_path: Path) -> None:
    (warning,) = checked(write(tmp_path, divided_by_seed(world, {"teacher": TEACHER}))).warnings
    assert warning.startswith("run:teacher is trained on images on which runs of seed 1 fit")
    assert checked(write(tmp_path, with_first(world, seeds=[0, 1]))).warnings == ()


def test_folds_without_an_image_are_refused(world: World, tmp_path: Path) -> None:
    first = {"teacher": TEACHER | {"folds": 2}}
    plan = divided_by_seed(world, first, methods={"kd": None}, clip=False)
    error = str(refusal(checked, write(tmp_path, plan)))
    assert "an out-of-fold teacher must be trained without it (run:teacher)" in error
    assert "of seed 1 without such a teacher" in error


def test_a_teacher_that_was_trained_on_test_images_is_refused(world: World, tmp_path: Path) -> None:
    shutil.copytree(world.images / "train", tmp_path / "images")
    first = {"teacher": TEACHER | {"data.test_fraction": 0.1}}
    plan = with_first(world, first, methods={"kd": None}, clip=False)
    plan["base"]["data"] = {"path": str(tmp_path / "images"), "val_fraction": 0, "test_fraction": 0.3}
    error = str(refusal(checked, write(tmp_path, plan)))
    assert "must not be trained on test images of the runs that have its model (run:teacher)" in error


def test_a_teacher_that_was_trained_on_more_labels_is_a_warning(world: World, tmp_path: Path) -> None:
    methods = {"kd": {"data.exclude_fold": [0, 2]}}
    (warning,) = checked(write(tmp_path, with_first(world, methods=methods, clip=False))).warnings
    assert warning.startswith("run:teacher is trained on labels that runs of seed 0 do not have")
    first = {"teacher": TEACHER | {"data.exclude_fold": [0, 2]}}
    assert checked(write(tmp_path, with_first(world, first, methods={"kd": None}, clip=False))).warnings == ()
