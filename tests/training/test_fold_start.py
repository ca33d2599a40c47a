"""What teachers of folds may start from: no weights that saw their folds, no teacher of other images."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from richkd.config.teacher_run import recipe_of
from richkd.core.checksums import SUMS
from richkd.core.errors import ClassError, ConfigError, DataError
from richkd.training.run import distill, teach_folds
from tests.fixtures import CLASSES, World, make_images, make_teacher, refusal

WEIGHTS = "student/model.safetensors"
LEAK = "must not start from weights that were trained on the images"


def error_of(full: Path, out: Path, **changes: Any) -> Any:
    """The error of teachers of folds that repeat a run with other settings; nothing may be trained."""
    settings = {name.replace("__", "."): value for name, value in changes.items()}
    config = recipe_of(full, settings | {"out": str(out)})
    error = refusal(teach_folds, config, 3, full=full, quiet=True)
    assert not list(out.glob("fold-*"))
    return error


@pytest.mark.parametrize("name", [WEIGHTS, "checkpoints/last.ckpt", "checkpoints/best.ckpt"])
@pytest.mark.parametrize("copied", [False, True])
def test_weights_of_the_full_teacher_are_refused(
    full_run: Path, tmp_path: Path, name: str, copied: bool
) -> None:
    file = full_run / name
    if copied:
        file = Path(shutil.copy(file, tmp_path / f"copy{file.suffix}"))
    error = error_of(full_run, tmp_path / "folds", student__weights=str(file))
    assert isinstance(error, ConfigError)
    assert LEAK in error.rule
    assert "learned the labels" in error.rule
    assert str(file) in str(error.got)


@pytest.mark.parametrize("place", ["itself", "copy", "tensors"])
def test_the_full_teacher_as_the_start_is_refused(full_run: Path, tmp_path: Path, place: str) -> None:
    folder = full_run / "student"
    changes: dict[str, Any] = {"student__name": f"local-dir:{folder}"}
    if place == "copy":
        shutil.copytree(folder, tmp_path / "copy")
        changes = {"student__name": f"local-dir:{tmp_path / 'copy'}"}
    elif place == "tensors":
        torch.save(load_file(full_run / WEIGHTS), tmp_path / "tensors.pth")
        changes = {"student__weights": str(tmp_path / "tensors.pth")}
    assert LEAK in error_of(full_run, tmp_path / "folds", **changes).rule


def test_a_link_to_the_full_teacher_is_refused(full_run: Path, tmp_path: Path) -> None:
    (tmp_path / "link.safetensors").symlink_to(full_run / WEIGHTS)
    link = str(tmp_path / "link.safetensors")
    assert LEAK in error_of(full_run, tmp_path / "folds", student__weights=link).rule


def test_any_run_on_these_images_is_refused_as_a_start(
    world: World, full_run: Path, repeated: Path, tmp_path: Path
) -> None:
    # Without --from, and the teacher of one fold as the start of all.
    for weights in (full_run / WEIGHTS, repeated / "fold-1" / WEIGHTS):
        changes = {"student__weights": str(weights), "train__epochs": 1, "method__name": "ce"}
        config = world.config(tmp_path / "folds", **changes)
        assert LEAK in refusal(teach_folds, config, 2, quiet=True).rule


def test_weights_of_other_images_are_a_start(world: World, full_run: Path, tmp_path: Path) -> None:
    make_images(tmp_path / "images", seed=7)
    before = distill(
        world.config(
            tmp_path / "before", method__name="ce", train__epochs=1, data__path=str(tmp_path / "images")
        ),
        quiet=True,
    ).folder
    make_teacher(tmp_path / "other")
    for number, weights in enumerate((before / WEIGHTS, tmp_path / "other" / "model.safetensors")):
        out = tmp_path / f"folds-{number}"
        config = recipe_of(full_run, {"student.weights": str(weights), "train.epochs": 1, "out": str(out)})
        assert len(teach_folds(config, 2, full=full_run, quiet=True)) == 2


def test_the_recipe_starts_from_what_the_full_teacher_started_from(world: World, tmp_path: Path) -> None:
    make_teacher(tmp_path / "start")
    start = tmp_path / "start" / "model.safetensors"
    changes = {"method__name": "ce", "train__epochs": 1, "student__weights": str(start)}
    full = distill(world.config(tmp_path / "full", **changes), quiet=True).folder
    teach_folds(recipe_of(full, {"out": str(tmp_path / "warm")}), 2, full=full, quiet=True)
    by_hand = world.config(tmp_path / "hand", **changes)
    teach_folds(by_hand, 2, quiet=True)
    for name in (WEIGHTS, "metrics.jsonl"):
        for fold in range(2):
            ours, theirs = (tmp_path / kind / f"fold-{fold}" / name for kind in ("warm", "hand"))
            assert ours.read_bytes() == theirs.read_bytes()


def test_a_full_teacher_of_other_images_is_refused(full_run: Path, tmp_path: Path) -> None:
    make_images(tmp_path / "images", seed=7)
    error = error_of(full_run, tmp_path / "folds", data__path=str(tmp_path / "images"))
    assert isinstance(error, DataError)
    assert "must have been trained on the training images" in error.rule
    assert "images of train" in str(error.got)
    # Another seed and another fraction hold other images out of training.
    for changes in ({"train__seed": 4}, {"data__val_fraction": 0.5}):
        assert "images of train" in str(error_of(full_run, tmp_path / "folds", **changes).got)


def test_a_full_teacher_of_other_classes_is_refused(full_run: Path, tmp_path: Path) -> None:
    make_images(tmp_path / "two", CLASSES[:2])
    error = error_of(full_run, tmp_path / "folds", data__path=str(tmp_path / "two"))
    assert isinstance(error, ClassError)
    assert error.got == "a teacher of 3 classes for data with 2"
    make_images(tmp_path / "others", ("ant", "bee", "dog"))
    error = error_of(full_run, tmp_path / "folds", data__path=str(tmp_path / "others"))
    assert isinstance(error, ClassError)
    assert "'dog'" in str(error)


def test_a_run_without_a_record_of_images_is_accepted_with_a_warning(
    full_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old = tmp_path / "old"
    shutil.copytree(full_run, old)
    for name in ("inputs.json", SUMS):
        (old / name).unlink()
    config = recipe_of(old, {"train.epochs": 1, "out": str(tmp_path / "folds")})
    teach_folds(config, 2, full=old)
    assert "no record of its images" in capsys.readouterr().out
    (old / "inputs.json").write_text('{"splits": {}, "files": {}}')
    config = recipe_of(old, {"train.epochs": 1, "out": str(tmp_path / "more")})
    assert "inputs.json" in refusal(teach_folds, config, 2, full=old, quiet=True).rule
