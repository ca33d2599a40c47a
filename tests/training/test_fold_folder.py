"""The folder of all folds: its record, and teachers of another number of folds in it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from richkd.config.loading import load_config
from richkd.config.teacher_run import recipe_of
from richkd.core.errors import CheckpointError, ConfigError
from richkd.teachers.fold_record import RECORD
from richkd.training.run import teach_folds
from tests.fixtures import World, refusal


def test_the_teachers_have_the_settings_of_the_run(full_run: Path, repeated: Path) -> None:
    recorded = yaml.safe_load((full_run / "config.yaml").read_text())
    for fold in range(3):
        ours = yaml.safe_load((repeated / f"fold-{fold}" / "config.yaml").read_text())
        assert ours["data"].pop("exclude_fold") == [fold, 3]
        assert ours.pop("out") != recorded["out"]
        assert ours == {name: value for name, value in recorded.items() if name != "out"}
    assert json.loads((repeated / RECORD).read_text())["full"] == str(full_run)


def test_five_folds_are_the_default(world: World, tmp_path: Path) -> None:
    config = world.config(tmp_path / "folds", method__name="ce", train__epochs=1)
    assert len(teach_folds(config, quiet=True)) == 5
    assert not (tmp_path / "folds" / RECORD).exists()
    excluded = [
        load_config(f / "config.yaml").data.exclude_fold for f in sorted((tmp_path / "folds").iterdir())
    ]
    assert excluded == [(fold, 5) for fold in range(5)]


@pytest.mark.slow
def test_teachers_of_more_folds_do_not_stay_behind(
    world: World, full_run: Path, repeated: Path, tmp_path: Path
) -> None:
    out = tmp_path / "folds"
    config = recipe_of(full_run, {"out": str(out), "train.epochs": 1})
    teach_folds(config, 3, full=full_run, quiet=True)
    for how in ({}, {"resume": True}):
        error = refusal(teach_folds, config, 2, full=full_run, quiet=True, **how)
        assert isinstance(error, CheckpointError)
        assert error.got == "fold-2"
    assert (out / "fold-2" / "summary.json").exists()
    teach_folds(config, 2, overwrite=True, quiet=True)
    assert sorted(path.name for path in out.glob("fold-*")) == ["fold-0", "fold-1"]
    # Nor does the record of a full teacher that the new teachers do not have.
    assert not (out / RECORD).exists()


def test_resuming_keeps_the_record(full_run: Path, tmp_path: Path) -> None:
    config = recipe_of(full_run, {"out": str(tmp_path / "folds"), "train.epochs": 1})
    teach_folds(config, 2, full=full_run, quiet=True)
    before = (tmp_path / "folds" / RECORD).read_bytes()
    for full in (None, full_run):
        teach_folds(config, 2, full=full, resume=True, quiet=True)
        assert (tmp_path / "folds" / RECORD).read_bytes() == before


def test_the_folder_of_the_full_teacher_is_refused(full_run: Path) -> None:
    config = recipe_of(full_run, {"out": f"{full_run}/../{full_run.name}"})
    error = refusal(teach_folds, config, 3, full=full_run, quiet=True)
    assert isinstance(error, ConfigError)
    assert "folder of their own" in error.rule
    assert not list(full_run.glob("fold-*"))


@pytest.mark.parametrize("fold", [(0, 3), (1, 2)])
def test_a_fold_that_is_already_left_out_is_refused(
    world: World, tmp_path: Path, fold: tuple[int, int]
) -> None:
    config = world.config(tmp_path / "folds", method__name="ce", data__exclude_fold=fold)
    assert "'data.exclude_fold' has no effect" in refusal(teach_folds, config, 3, quiet=True).rule
