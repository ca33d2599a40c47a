"""The recipe of a finished teacher, and runs that are none."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from richkd.config.loading import load_config
from richkd.config.teacher_run import recipe_of
from richkd.core.checksums import SUMS
from richkd.core.errors import CheckpointError, ConfigError
from tests.fixtures import World, refusal


def copy_of(run: Path, to: Path, **changes: Any) -> Path:
    """A copy of a run whose settings were changed, or removed (None) with ``__`` for a dot."""
    shutil.copytree(run, to)
    settings = yaml.safe_load((to / "config.yaml").read_text())
    for name, value in changes.items():
        section, _, leaf = name.rpartition("__")
        (settings[section] if section else settings)[leaf] = value
    (to / "config.yaml").write_text(yaml.safe_dump(settings))
    (to / SUMS).unlink()
    return to


def test_the_recipe_is_that_of_the_run_without_its_folder(full_run: Path) -> None:
    recorded, recipe = load_config(full_run / "config.yaml"), recipe_of(full_run)
    assert recipe == recorded.model_copy(update={"out": recipe.out})
    assert recipe.out != recorded.out
    assert (recipe.optim.lr, recipe.train.epochs, recipe.train.seed, recipe.augment.pad) == (0.07, 2, 3, 1)


def test_options_win_and_everything_else_stays(full_run: Path) -> None:
    recipe, other = recipe_of(full_run), recipe_of(full_run, {"train.epochs": "7", "student.size": 8})
    assert (other.train.epochs, other.student.size) == (7, 8)
    train, student = {"epochs": recipe.train.epochs}, {"size": recipe.student.size}
    back = {
        "train": other.train.model_copy(update=train),
        "student": other.student.model_copy(update=student),
    }
    assert other.model_copy(update=back) == recipe


def test_starting_weights_belong_to_the_recipe(full_run: Path, tmp_path: Path) -> None:
    run = copy_of(full_run, tmp_path / "run", student__weights="start.pth", student__pretrained=True)
    recipe = recipe_of(run)
    assert (recipe.student.weights, recipe.student.pretrained) == (Path("start.pth"), True)


def test_a_moved_run_finds_its_data(full_run: Path, world: World, tmp_path: Path) -> None:
    moved = tmp_path / "a" / "teacher"
    shutil.copytree(full_run, moved)
    config = moved / "config.yaml"
    # The data were beside the run.
    config.write_text(config.read_text().replace(str(world.images), str(full_run.parent / "images")))
    (moved / SUMS).unlink()
    shutil.copytree(world.images, tmp_path / "a" / "images")
    assert recipe_of(moved).data.path == str(tmp_path / "a" / "images")


def test_runs_that_are_not_finished_are_refused(full_run: Path, tmp_path: Path) -> None:
    def error(run: Path) -> str:
        result = refusal(recipe_of, run)
        assert isinstance(result, CheckpointError)
        assert str(run) in result.rule
        return str(result)

    stopped = copy_of(full_run, tmp_path / "stopped")
    (stopped / "summary.json").unlink()
    assert "not finished: no summary.json" in error(stopped)
    assert "summary.json after 2 of 9 epochs" in error(
        copy_of(full_run, tmp_path / "longer", train__epochs=9)
    )
    bare = copy_of(full_run, tmp_path / "bare")
    shutil.rmtree(bare / "student")
    assert "must have its student" in error(bare)
    broken = copy_of(full_run, tmp_path / "broken")
    (broken / "summary.json").write_text("[]")
    assert "figures of the run" in error(broken)
    assert "no such folder" in error(tmp_path / "nowhere")
    assert "a folder without a run" in error(tmp_path)
    (tmp_path / "file").touch()
    assert "a file" in error(tmp_path / "file")


def test_a_folder_beside_the_run_is_answered_with_the_run(full_run: Path, repeated: Path) -> None:
    assert f"--from {full_run}" in str(refusal(recipe_of, full_run / "student").fix)
    assert "teachers of folds" in str(refusal(recipe_of, repeated).got)


def test_runs_of_other_lessons_are_refused(full_run: Path, repeated: Path, tmp_path: Path) -> None:
    error = refusal(recipe_of, repeated / "fold-1")
    assert isinstance(error, ConfigError)
    assert "data.exclude_fold 1 3" in str(error.got)
    student = copy_of(
        full_run, tmp_path / "kd", method__name="kd", teachers=[{"name": "local-dir:runs/large"}]
    )
    error = refusal(recipe_of, student)
    assert "labels alone" in error.rule
    assert error.got == "method kd from local-dir:runs/large"


@pytest.mark.parametrize("name", ["config.yaml", "summary.json"])
def test_records_that_were_changed_are_refused(full_run: Path, tmp_path: Path, name: str) -> None:
    run = tmp_path / "run"
    shutil.copytree(full_run, run)
    (run / name).write_text((run / name).read_text() + " ")
    assert name in refusal(recipe_of, run).rule
