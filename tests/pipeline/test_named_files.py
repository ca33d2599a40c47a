"""A run is resumed with the files it was started with."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from richkd.config.loading import load_config
from richkd.config.resumed import INPUTS
from richkd.config.schema import Config
from richkd.core.checksums import SUMS
from richkd.core.errors import CheckpointError
from richkd.core.tensor_files import encode_tensors, read_tensors
from richkd.export.student import load_student, save_student
from richkd.pipeline.import_outputs import import_outputs
from richkd.pipeline.named_files import hash_named_files, refuse_changed_files
from richkd.teachers.fold_record import RECORD, record_of
from richkd.training.run import distill
from richkd.training.run_folder import RunFolder
from richkd.training.same_settings import refuse_other_settings
from tests.fixtures import CLASSES, World, make_clip, make_outputs, make_teacher, refusal


def test_every_named_file_has_its_hash(world: World, tmp_path: Path) -> None:
    names = (
        "names.txt",
        "tree.yaml",
        "templates.txt",
        "prompts.yaml",
        "renamed.yaml",
        "weights.yaml",
        "clip.pt",
    )
    for name in names:
        (tmp_path / name).write_text(name)
    settings: dict[str, Any] = {
        "data.path": str(world.images),
        "data.class_names": tmp_path / "names.txt",
        "data.hierarchy": tmp_path / "tree.yaml",
        "student.name": f"local-dir:{world.teacher}",
        "teachers.1.name": "resnet18",
        "teachers.1.weights": world.teacher / "model.safetensors",
        "teachers.2.name": "resnet18.a1_in1k",
        "clip.name": f"ViT-B-32:{tmp_path / 'clip.pt'}",
        "clip.prompts": str(tmp_path / "templates.txt"),
        "clip.class_prompts": tmp_path / "prompts.yaml",
        "clip.rename_classes": tmp_path / "renamed.yaml",
        "clip.prompt_weights": str(tmp_path / "weights.yaml"),
    }
    hashes = hash_named_files(load_config(None, settings))
    files = {path: digest for digests in hashes.values() for path, digest in digests.items()}
    expected = [tmp_path / name for name in names]
    expected += [world.teacher / name for name in ("config.json", "model.safetensors")]
    assert files == {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in expected}
    assert set(hashes) == set(settings) - {"data.path", "teachers.1.name", "teachers.2.name"}


def other_weights(folder: Path) -> None:
    """Other weights with intact hashes, as a teacher that was trained again."""
    student = load_student(folder)
    with torch.no_grad():
        next(student.network.parameters()).add_(0.1)
    save_student(folder, student.network, CLASSES, 1.0, {})


def other_outputs(folder: Path) -> None:
    make_clip(folder.parent / "clip.npz", folder.parent / "images", poison=None, leave_out=1)


def gone(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


@pytest.fixture
def stopped(world: World, tmp_path: Path) -> Any:
    """The settings of a run that can be resumed, with files of its own."""
    shutil.copytree(world.images, tmp_path / "images")
    shutil.copy(world.clip, tmp_path / "clip.npz")
    shutil.copytree(world.teacher, tmp_path / "teacher")
    changes = {"teachers__1__name": f"local-dir:{tmp_path / 'teacher'}", "train__epochs": 1}
    changes |= {"data__path": str(tmp_path / "images"), "clip__name": f"outputs:{tmp_path / 'clip.npz'}"}
    config = world.config(tmp_path / "run", **changes)
    distill(config, quiet=True)
    return config


@pytest.mark.parametrize(
    ("change", "setting", "got"),
    [
        (other_weights, "teachers.1.name", "another file"),
        (other_outputs, "clip.name", "another file"),
        (gone, "teachers.1.name", "no file"),
    ],
)
def test_a_run_is_not_resumed_with_other_files(
    stopped: Any, tmp_path: Path, change: Callable[[Path], None], setting: str, got: str
) -> None:
    summary = distill(stopped, resume=True, quiet=True).summary
    weights = tmp_path / "teacher" / "model.safetensors"
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    assert summary["inputs"]["teachers.1.name"][str(weights)] == digest
    card = (tmp_path / "run" / "student" / "README.md").read_text()
    assert digest in card
    assert str(tmp_path) not in card
    change(tmp_path / "teacher")
    error = refusal(distill, stopped, resume=True, quiet=True)
    assert isinstance(error, CheckpointError)
    assert setting in error.rule
    assert got in str(error.got)
    assert str(tmp_path / "run" / INPUTS) in str(error.fix)


def test_other_files_are_accepted_without_the_record(stopped: Any, tmp_path: Path) -> None:
    other_weights(tmp_path / "teacher")
    (tmp_path / "run" / INPUTS).unlink()
    summary = distill(stopped, resume=True, quiet=True).summary
    digest = hashlib.sha256((tmp_path / "teacher" / "model.safetensors").read_bytes()).hexdigest()
    assert digest in json.dumps(summary["inputs"])
    assert digest in (tmp_path / "run" / INPUTS).read_text()
    assert INPUTS in (tmp_path / "run" / SUMS).read_text()


def test_a_new_file_of_a_model_is_another_model(world: World, tmp_path: Path) -> None:
    for fold in range(2):
        make_teacher(tmp_path / "folds" / f"fold-{fold}" / "student", seed=fold)
    config = world.config(tmp_path / "run", teachers__1__name=f"folds:{tmp_path / 'folds'}")
    recorded = hash_named_files(config)
    refuse_changed_files(recorded, config, tmp_path / INPUTS)
    make_teacher(tmp_path / "folds" / "fold-2" / "student", seed=2)
    assert "fold-2" in refusal(refuse_changed_files, recorded, config, tmp_path / INPUTS).rule


def test_the_full_teacher_of_a_blend_may_move_but_not_change(
    full_run: Path, repeated: Path, world: World, tmp_path: Path
) -> None:
    run, folds = tmp_path / "runs" / "full", tmp_path / "runs" / "folds"
    shutil.copytree(full_run, run)
    shutil.copytree(repeated, folds)

    def record(full: Path) -> None:
        (folds / SUMS).unlink(missing_ok=True)
        (folds / RECORD).write_text(json.dumps(record_of(full, folds)))

    def config(share: float | None) -> Config:
        changes = {"teachers__1__name": f"folds:{folds}", "teachers__1__fold_share": share}
        return world.config(tmp_path / "run", **changes)

    record(run)
    recorded = hash_named_files(config(0.5))
    files = recorded["teachers.1.name"]
    assert [str(run) in file for file in files].count(True) == 2
    assert not any(str(run) in file for file in hash_named_files(config(None))["teachers.1.name"])
    run.rename(tmp_path / "moved")
    record(tmp_path / "moved")
    refuse_changed_files(recorded, config(0.5), tmp_path / INPUTS)
    make_teacher(tmp_path / "moved" / "student", seed=9)
    record(tmp_path / "moved")
    error = refusal(refuse_changed_files, recorded, config(0.5), tmp_path / INPUTS)
    assert "moved/student" in error.rule


def test_imported_outputs_may_grow_but_not_change(world: World, tmp_path: Path) -> None:
    changes = {"teachers__1__name": "cache:big", "cache__dir": tmp_path / "cache", "data__size": 16}
    config = world.config(tmp_path / "run", **changes)
    make_outputs(tmp_path / "big.npz", world.images)
    import_outputs(tmp_path / "big.npz", config)
    recorded = hash_named_files(config)
    reseeded = config.train.model_copy(update={"seed": 1})
    import_outputs(tmp_path / "big.npz", config.model_copy(update={"train": reseeded}))
    refuse_changed_files(recorded, config, tmp_path / INPUTS)
    assert len(hash_named_files(config)["teachers.1.name"]) > len(recorded["teachers.1.name"])
    for folder in (tmp_path / "cache").glob("big-*"):
        shutil.rmtree(folder)
    with np.load(tmp_path / "big.npz") as file:
        arrays = dict(file)
    np.savez(tmp_path / "big.npz", **{**arrays, "logits": arrays["logits"][::-1]})
    import_outputs(tmp_path / "big.npz", config)
    error = refusal(refuse_changed_files, recorded, config, tmp_path / INPUTS)
    assert "manifest.json" in error.rule
    assert "no file" in str(error.got)


def test_the_same_weights_are_not_those_of_another_architecture(world: World, tmp_path: Path) -> None:
    weights = tmp_path / "clip.pt"
    weights.write_bytes(b"weights")
    config = world.config(tmp_path / "run", clip__name=f"ViT-B-32:{weights}")
    RunFolder(config.out).create(config, overwrite=False)
    refuse_other_settings(config.out, config)
    moved = weights.rename(tmp_path / "moved.pt")
    refuse_other_settings(config.out, world.config(config.out, clip__name=f"ViT-B-32:{moved}"))
    other = world.config(config.out, clip__name=f"ViT-L-14:{moved}")
    assert "clip.name ViT-L-14:" in str(refusal(refuse_other_settings, config.out, other).got)


def test_weights_with_a_tag_may_move_but_not_change(world: World, tmp_path: Path) -> None:
    weights = tmp_path / "clip.pt"
    weights.write_bytes(b"weights")
    config = world.config(tmp_path / "run", clip__name=f"ViT-B-32:openai@{weights}")
    RunFolder(config.out).create(config, overwrite=False)
    moved = weights.rename(tmp_path / "moved.pt")
    config = world.config(config.out, clip__name=f"ViT-B-32:openai@{moved}")
    refuse_other_settings(config.out, config)
    # Another tag means another normalization and activation for the same weights.
    other = world.config(config.out, clip__name=f"ViT-B-32:laion2b_e16@{moved}")
    assert "laion2b_e16" in str(refusal(refuse_other_settings, config.out, other).got)
    moved.write_bytes(b"others!")
    error = refusal(refuse_other_settings, config.out, config)
    assert "clip.name names" in error.rule
    assert "another file by content" in str(error.got)


def test_saved_weights_have_the_same_bytes_again(world: World, tmp_path: Path) -> None:
    tensors, metadata = read_tensors(world.teacher / "model.safetensors")
    assert encode_tensors(tensors, metadata) == (world.teacher / "model.safetensors").read_bytes()
