"""Teachers whose outputs were imported: the targets that were given, and words for what does not fit."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from richkd.core.errors import CacheError, RichKDError
from richkd.core.types import Output
from richkd.data.augmentations import Clean
from richkd.data.order import TrainingOrder
from richkd.pipeline.assemble import Parts, assemble
from richkd.pipeline.import_outputs import import_outputs
from richkd.teachers.cache.manifest import list_caches
from richkd.teachers.precomputed.vision import ImportedTeacher
from richkd.teachers.predict import outputs_of
from richkd.training.run import distill
from tests.fixtures import CLASSES, WIDTH, World, keys_of, make_outputs, refusal

CPU = torch.device("cpu")
KD: dict[str, Any] = {"method__name": "kd", "clip__name": None}
FREE: dict[str, Any] = {
    "augment__policy": "random-resized-crop",
    "augment__color_jitter": 0.2,
    "augment__num_views": 2,
}
WEIGHTS = "student/model.safetensors"


class Rows:
    """Outputs by (key, view), on their way to a file."""

    def __init__(self) -> None:
        self.rows: dict[tuple[str, int], tuple[Any, Any]] = {}

    def add(self, keys: list[str], numbers: list[int], output: Output) -> None:
        for row, pair in enumerate(zip(keys, numbers, strict=True)):
            self.rows[pair] = (output.logits_BC[row].numpy(), output.feats_BF[row].numpy())

    def save(self, path: Path, *, numbered: bool, exclude_fold: int = 0) -> Path:
        rows = dict(list(self.rows.items())[exclude_fold:])
        arrays = {
            "logits": np.stack([logits for logits, _ in rows.values()]),
            "features": np.stack([feats for _, feats in rows.values()]),
            "classnames": np.array(CLASSES),
            "keys": np.array([key for key, _ in rows]),
        }
        if numbered:
            arrays["views"] = np.array([number for _, number in rows])
        np.savez(path, **arrays)
        return path


def outputs_of_whole_images(parts: Parts, rows: Rows, splits: set[str]) -> Rows:
    for name in splits:
        keys = parts.data.splits[name].keys()
        rows.add(keys, [0] * len(keys), outputs_of(parts.teachers[0], parts.stores.clean(name), CPU))
    return rows


def outputs_in_training(parts: Parts) -> Rows:
    """The outputs of the run's teacher for each view that the student will see."""
    rows, train, split = Rows(), parts.config.train, parts.data.splits["train"]
    order = TrainingOrder(len(split), train.batch_size, train.seed)
    for epoch in range(train.epochs):
        for batch in parts.training_batches(epoch, order.epoch(epoch)):
            views = parts.augmentation.draw(train.seed, epoch, batch.index_B)
            assert views.number_B is not None
            keys = [split.key(index) for index in batch.index_B.tolist()]
            rows.add(keys, views.number_B.tolist(), parts.teachers[0].outputs(batch, views))
    return rows


def imported(world: World, root: Path, **changes: Any) -> dict[str, Any]:
    """Settings of a run from made-up outputs of whole images, which are imported."""
    make_outputs(root / "big.npz", world.images)
    settings = KD | {"cache__dir": root / "cache"} | changes
    import_outputs(root / "big.npz", world.config(root / "run", **settings))
    return settings | {"teachers__1__name": "cache:big"}


def opened(world: World, root: Path, **settings: Any) -> tuple[Parts, ImportedTeacher]:
    parts = assemble(world.config(root / "run", **settings), CPU)
    assert isinstance(parts.teachers[0], ImportedTeacher)
    return parts, parts.teachers[0]


def refused(world: World, root: Path, **settings: Any) -> RichKDError:
    return refusal(assemble, world.config(root / "run", **settings), CPU)


def test_whole_images_serve_for_whatever_view_is_seen(world: World, tmp_path: Path) -> None:
    parts, teacher = opened(world, tmp_path, **imported(world, tmp_path))
    given = make_outputs(tmp_path / "same.npz", world.images)
    row_of = {key: row for row, key in enumerate(given["files"].tolist())}
    for name in parts.stores.names:
        store = parts.stores.clean(name)
        (batch,) = store.batches([torch.tensor([5, 0, 7])])
        rows = [row_of[store.split.key(index)] for index in (5, 0, 7)]
        for augmentation in (parts.augmentation, Clean(store.size)):
            output = teacher.outputs(batch, augmentation.draw(0, 3, batch.index_B))
            assert output.logits_BC.dtype == output.feats_BF.dtype == torch.float32
            assert np.array_equal(output.logits_BC.numpy(), given["logits"][rows].astype(np.float32)), name
            stored = given["features"][rows].astype(np.float16 if name == "train" else np.float32)
            assert np.array_equal(output.feats_BF.numpy(), stored.astype(np.float32))
    assert (teacher.feature_width, teacher.logit_scale, teacher.computed) == (WIDTH, 1.0, 0)


def test_a_run_on_whole_images_is_the_run_with_the_teacher_online(world: World, tmp_path: Path) -> None:
    settings = KD | {"augment__policy": "clean"}
    online = distill(world.config(tmp_path / "online", **settings), quiet=True)
    parts = assemble(world.config(tmp_path / "online", **settings), CPU)
    rows = outputs_of_whole_images(parts, Rows(), {"train", "val", "test"})
    path = rows.save(tmp_path / "big.npz", numbered=False)
    settings["cache__dir"] = tmp_path / "cache"
    import_outputs(path, world.config(tmp_path / "run", **settings))
    settings["teachers__1__name"] = "cache:big"
    run = distill(world.config(tmp_path / "run", **settings), quiet=True)
    assert (run.folder / WEIGHTS).read_bytes() == (online.folder / WEIGHTS).read_bytes()
    summary = json.loads((run.folder / "summary.json").read_text())
    assert summary["images_through_teachers"] == {"big": 0}


@pytest.mark.slow
@pytest.mark.parametrize("changes", [{}, KD | FREE], ids=["crops and CLIP", "free crops"])
def test_a_run_on_numbered_views_is_the_run_with_the_teacher_online(
    world: World, tmp_path: Path, changes: dict[str, Any]
) -> None:
    config = world.config(tmp_path / "online", **changes)
    online = distill(config, quiet=True)
    parts = assemble(config, CPU)
    rows = outputs_of_whole_images(parts, outputs_in_training(parts), {"val", "test"})
    path = rows.save(tmp_path / "outputs.npz", numbered=True)
    settings = changes | {"cache__dir": tmp_path / "cache"}
    import_outputs(path, world.config(tmp_path / "run", **settings), name="big")
    run = distill(world.config(tmp_path / "run", **settings, teachers__1__name="cache:big"), quiet=True)
    assert (run.folder / WEIGHTS).read_bytes() == (online.folder / WEIGHTS).read_bytes()
    assert run.summary["images_through_teachers"]["big"] == 0


def test_a_view_that_was_not_imported_is_named(world: World, tmp_path: Path) -> None:
    parts = assemble(world.config(tmp_path / "run", **KD), CPU)
    rows = outputs_of_whole_images(parts, outputs_in_training(parts), {"val", "test"})
    key, number = next(iter(rows.rows))
    path = rows.save(tmp_path / "big.npz", numbered=True, exclude_fold=1)
    settings = KD | {"cache__dir": tmp_path / "cache"}
    import_outputs(path, world.config(tmp_path / "run", **settings))
    settings["teachers__1__name"] = "cache:big"
    error = refusal(distill, world.config(tmp_path / "run", **settings), quiet=True)
    assert isinstance(error, CacheError)
    assert error.got == f"1 of 8 missing in split 'train': view {number} of {key}"
    assert "--name" in str(error.fix)
    _, teacher = opened(world, tmp_path, **settings)
    store = parts.stores.clean("train")
    (batch,) = store.batches([torch.tensor([0])])
    error = refusal(teacher.outputs, batch, Clean(store.size).draw(0, 0, batch.index_B))
    assert "CropFlip" in error.rule
    assert "Clean" in str(error.got)


def test_splits_that_are_evaluated_must_be_whole_before_the_first_step(world: World, tmp_path: Path) -> None:
    parts = assemble(world.config(tmp_path / "run", **KD), CPU)
    path = outputs_in_training(parts).save(tmp_path / "big.npz", numbered=True)
    settings = KD | {"cache__dir": tmp_path / "cache"}
    import_outputs(path, world.config(tmp_path / "run", **settings))
    error = refused(world, tmp_path, **settings, teachers__1__name="cache:big")
    assert str(error.got).startswith("12 of 12 missing in split 'val': train/")


def test_features_are_asked_for_by_methods_that_need_them(world: World, tmp_path: Path) -> None:
    make_outputs(tmp_path / "big.npz", world.images, features=None)
    folder = {"cache__dir": tmp_path / "cache"}
    import_outputs(tmp_path / "big.npz", world.config(tmp_path / "run", **folder))
    error = refused(world, tmp_path, **folder, teachers__1__name="cache:big")
    assert "A loss term reads features, so the imported outputs of 'big' must have features" in error.rule
    assert "--method.variant l" in str(error.fix)
    _, teacher = opened(world, tmp_path, **folder, teachers__1__name="cache:big", method__variant="l")
    assert teacher.feature_width == 0


@pytest.mark.parametrize(
    ("changes", "differs"),
    [
        ({"data__val_fraction": 0.5}, "images"),
        ({"train__seed": 1}, "images"),
        ({"student__size": 12}, "images, views"),
        ({"cache__top_k": 2}, "row format"),
    ],
)
def test_outputs_of_other_settings_are_refused_in_words(
    world: World, tmp_path: Path, changes: dict[str, Any], differs: str
) -> None:
    error = refused(world, tmp_path, **imported(world, tmp_path) | changes)
    assert isinstance(error, CacheError)
    assert "must belong to this run's images, classes and views" in error.rule
    assert str(error.got).endswith(f"which differs in {differs}")


@pytest.mark.parametrize(
    ("before", "changes", "differs"),
    [
        ({}, {"augment__pad": 1}, "views"),
        ({}, {"augment__flip": False}, "views"),
        (FREE, {"train__seed": 1}, "seed"),
    ],
)
def test_numbered_views_of_other_settings_are_refused_in_words(
    world: World, tmp_path: Path, before: dict[str, Any], changes: dict[str, Any], differs: str
) -> None:
    # Without held-out images the seed decides nothing but the views.
    settings = KD | {"data__val_fraction": 0, "cache__dir": tmp_path / "cache"} | before
    numbers = np.zeros(len(keys_of(world.images)), dtype=int)
    make_outputs(tmp_path / "big.npz", world.images, views=numbers)
    import_outputs(tmp_path / "big.npz", world.config(tmp_path / "run", **settings))
    settings["teachers__1__name"] = "cache:big"
    opened(world, tmp_path, **settings)
    error = refused(world, tmp_path, **settings | changes)
    assert str(error.got).endswith(f"which differs in {differs}")
    assert "train.seed" in str(error.fix)


def test_other_class_names_are_refused_in_words(world: World, tmp_path: Path) -> None:
    settings = imported(world, tmp_path)
    (tmp_path / "names.txt").write_text("ant\nbee\nbull\n")
    error = refused(world, tmp_path, **settings, data__class_names=tmp_path / "names.txt")
    assert str(error.got).endswith("which differs in class names")


def test_a_cache_must_be_named_and_there(world: World, tmp_path: Path) -> None:
    settings = imported(world, tmp_path)
    error = refused(world, tmp_path, **settings | {"cache__dir": None})
    assert "--teacher-cache" in str(error.fix)
    error = refused(world, tmp_path, **settings | {"teachers__1__name": "cache:bigg"})
    assert "'bigg' for split 'train'" in error.rule
    assert error.fix == "Did you mean 'big'?"
    error = refused(world, tmp_path, **settings | {"cache__dir": tmp_path / "none"})
    assert (error.got, "richkd cache import" in str(error.fix)) == ("no imported outputs", True)


def test_damage_is_refused_and_mended_by_importing_again(world: World, tmp_path: Path) -> None:
    settings = imported(world, tmp_path)
    before = sorted((tmp_path / "cache").rglob("*"))
    shard = next(path for path in before if path.suffix == ".safetensors")
    shard.write_bytes(shard.read_bytes()[:-1])
    error = refused(world, tmp_path, **settings)
    assert "must be intact" in error.rule
    assert shard.exists()
    import_outputs(tmp_path / "big.npz", world.config(tmp_path / "run", **settings))
    opened(world, tmp_path, **settings)
    assert sorted((tmp_path / "cache").rglob("*")) == before


def test_two_files_of_one_name_are_not_guessed_between(world: World, tmp_path: Path) -> None:
    settings = imported(world, tmp_path)
    make_outputs(tmp_path / "big.npz", world.images, features=None)
    import_outputs(
        tmp_path / "big.npz",
        world.config(tmp_path / "run", **settings | {"cache__dir": tmp_path / "other"}),
    )
    for folder in list_caches(tmp_path / "other"):
        shutil.copytree(folder, tmp_path / "cache" / folder.name)
    error = refused(world, tmp_path, **settings)
    assert "must refer to the outputs of one file" in error.rule
    assert str(error.got).count("big-train-") == 2
