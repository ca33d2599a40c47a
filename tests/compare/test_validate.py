"""Everything that can be found before the first run is found, for all combinations together."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from richkd.compare.plan import read_plan
from richkd.compare.validate import Checked, check_runs
from tests.compare.plans import content, run, runs_of, write
from tests.fixtures import World, refusal


def checked(path: Path) -> Checked:
    return check_runs(read_plan(path).plan, runs_of(path), lambda message: None)


def test_a_plan_that_can_run(world: World, tmp_path: Path) -> None:
    result = checked(write(tmp_path, content(world)))
    assert set(result.budgets.values()) == {"1 epoch of 36 images in batches of 8"}
    assert set(result.images.values()) == {36}
    assert result.finished == frozenset()
    assert not (tmp_path / "out").exists()


def test_methods_that_cannot_run_are_listed_together(world: World, tmp_path: Path) -> None:
    pairs = {
        "good": {"student.size": 16},
        "gone": {"teachers": [{"name": "local-dir:nowhere"}]},
        "unknown": {"student.name": "cifar_resnet9"},
    }
    error = str(refusal(checked, write(tmp_path, content(world, pairs=pairs, controls=False))))
    assert "2 problems" in error
    assert "nowhere" in error
    assert "(kd, gone; richkd, gone)" in error
    assert "cifar_resnet9" in error
    assert "(kd, unknown; richkd, unknown)" in error


def test_a_method_that_needs_maps_cannot_run_with_a_student_without_them(
    world: World, tmp_path: Path
) -> None:
    methods = {"kd": None, "at": None}
    base = content(world)["base"]
    del base["clip"]
    assert checked(write(tmp_path, content(world, base=base, methods=methods)))
    pairs = {"fine": {"student.size": 16}, "without": {"student": {"name": "tests.compare.flat:flat"}}}
    error = str(refusal(checked, write(tmp_path, content(world, base=base, methods=methods, pairs=pairs))))
    assert "(at, without)" in error


@pytest.mark.parametrize("change", [{"train.epochs": 2}, {"train.batch_size": 4}])
def test_unequal_budgets_are_refused_unless_they_are_allowed(
    world: World, tmp_path: Path, change: dict[str, Any]
) -> None:
    methods = {"kd": None, "richkd": {"method.variant": "l", **change}}
    error = str(refusal(checked, write(tmp_path, content(world, methods=methods))))
    assert "same budget" in error
    assert "1 epoch of 36 images in batches of 8: kd" in error
    plan = content(world, methods=methods, allow_unequal_budgets=True)
    assert len(set(checked(write(tmp_path, plan)).budgets.values())) == 2


def test_images_that_an_epoch_repeats_count_in_budgets(world: World, tmp_path: Path) -> None:
    base = content(world)["base"]
    base["data"] |= {"labels_per_class": 2, "unlabeled": "rest"}
    plan = content(world, base=base)
    # All 36 training images, 30 of them without labels.
    assert set(checked(write(tmp_path, plan)).budgets.values()) == {"1 epoch of 36 images in batches of 8"}
    methods = {"kd": None, "richkd": {"method.variant": "l", "data.unlabeled_fraction": 0.25}}
    error = str(refusal(checked, write(tmp_path, content(world, base=base, methods=methods))))
    # 15 steps with 2 of the 30 images without labels, and with all 6 labeled ones.
    assert "1 epoch of 120 images in batches of 8: richkd" in error
    methods = {"kd": None, "richkd": {"method.variant": "l", "data.unlabeled": None}}
    error = str(refusal(checked, write(tmp_path, content(world, base=base, methods=methods))))
    assert "1 epoch of 6 images in batches of 8: richkd" in error


def test_methods_with_other_test_images_are_refused(world: World, tmp_path: Path) -> None:
    methods = {"kd": None, "richkd": {"method.variant": "l", "data.test_calibration_fraction": 0.5}}
    error = str(refusal(checked, write(tmp_path, content(world, methods=methods))))
    assert "evaluated on the same images" in error


def test_data_that_do_not_exist_are_one_problem(world: World, tmp_path: Path) -> None:
    shutil.copytree(world.images / "train", tmp_path / "images")
    base = content(world)["base"]
    base["data"] |= {"path": str(tmp_path / "images"), "test_fraction": 0}
    error = refusal(checked, write(tmp_path, content(world, base=base)))
    assert "needs a split 'test'" in str(error)
    assert not error.problems


def test_changed_images_are_refused_between_two_halves(world: World, tmp_path: Path) -> None:
    shutil.copytree(world.images, tmp_path / "images")
    here = replace(world, images=tmp_path / "images")
    methods = {"ce": None}
    base = content(here)["base"]
    del base["teachers"], base["clip"], base["train"]["teacher_precision"]
    half = write(tmp_path, content(here, base=base, methods=methods, seeds=[0]))
    run(half, tmp_path / "out")
    both = write(tmp_path, content(here, base=base, methods=methods))
    assert checked(both).finished == {"ce-e1-s0"}
    for split in ("train", "test"):
        picture = tmp_path / "images" / split / "bee" / "1.png"
        before = picture.read_bytes()
        Image.new("RGB", (16, 16), "white").save(picture)
        error = str(refusal(run, both, tmp_path / "out"))
        assert "must have the same images" in error
        assert f"{split}/bee/1.png" in error
        assert not (tmp_path / "out" / "runs" / "ce-e1-s1").exists()
        picture.write_bytes(before)
    assert len(run(both, tmp_path / "out").costs) == 2


def test_finished_runs_of_other_settings_are_refused(world: World, tmp_path: Path) -> None:
    base = content(world)["base"]
    del base["teachers"], base["clip"], base["train"]["teacher_precision"]
    run(write(tmp_path, content(world, base=base, methods={"ce": None}, seeds=[0])), tmp_path / "out")
    base["optim"]["lr"] = 0.03
    error = str(refusal(checked, write(tmp_path, content(world, base=base, methods={"ce": None}, seeds=[0]))))
    assert "optim.lr 0.03 where the run has 0.02" in error


def test_a_precision_that_is_emulated_is_named_once(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("richkd.core.precision._cpu_has_bf16", lambda: False)
    lines: list[str] = []
    path = write(tmp_path, content(world))
    check_runs(read_plan(path).plan, runs_of(path), lines.append)
    assert not any("bfloat16" in line for line in lines)
    base = content(world)["base"]
    base["train"] |= {"precision": "bf16", "teacher_precision": "bf16"}
    path = write(tmp_path, content(world, base=base))
    result = check_runs(read_plan(path).plan, runs_of(path), lines.append)
    assert sum("warning: this processor has no instructions for bfloat16" in line for line in lines) == 1
    assert result.warnings == ()
