"""Cached teachers: the same targets as online, to the bit, and no forward pass for what is stored."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from richkd.config.schema import CacheConfig
from richkd.core.errors import CacheError
from richkd.core.types import Batch, Output
from richkd.data.augmentations import Clean, CropFlip, RandomResizedCrop
from richkd.data.views import Augmentation, Views
from richkd.pipeline.assemble import Parts, assemble
from richkd.teachers.base import Teacher
from richkd.teachers.cache.cached import CachedTeacher, with_cache
from richkd.teachers.cache.manifest import Manifest, list_caches
from richkd.teachers.cache.row_format import RowFormat
from richkd.teachers.cache.store import OutputCache
from richkd.training.run import distill
from richkd.training.trainer import Trainer
from tests.fixtures import CLASSES, STEPS, TEST, TRAIN, World, make_teacher

CPU = torch.device("cpu")
# Images of the validation split, on which teachers are checked before training.
HELD_OUT = len(CLASSES) * TRAIN // 4
KD: dict[str, Any] = {"method__name": "kd", "clip__name": None}
EPOCHS = 3
WEIGHTS = "student/model.safetensors"


def run(world: World, out: Path, **changes: Any) -> tuple[bytes, dict[str, Any]]:
    distill(world.config(out, **changes), quiet=True)
    return (out / WEIGHTS).read_bytes(), json.loads((out / "summary.json").read_text())


def test_online_filling_and_cached_runs_end_with_identical_weights(world: World, tmp_path: Path) -> None:
    online, _ = run(world, tmp_path / "online")
    filling, first = run(world, tmp_path / "filling", cache__dir=tmp_path / "cache")
    cached, second = run(world, tmp_path / "cached", cache__dir=tmp_path / "cache")
    assert online == filling == cached
    # Three epochs of training, a pass for the fit of the fusion and one over the test images.
    forwards = EPOCHS * STEPS * 8 + HELD_OUT + len(CLASSES) * TEST
    # The CLIP's outputs are given, so no image goes through a network.
    assert sorted(first["images_through_teachers"].values()) == [0, forwards]
    assert list(second["images_through_teachers"].values()) == [0, 0]


def test_another_seed_reads_what_it_shares(world: World, tmp_path: Path) -> None:
    changes = KD | {"augment__pad": 0, "cache__dir": tmp_path / "cache"}
    run(world, tmp_path / "a", **changes, train__seed=0, train__epochs=6)
    _, summary = run(world, tmp_path / "b", **changes, train__seed=1, train__epochs=2)
    (forwards,) = summary["images_through_teachers"].values()
    # An image has two views, and six epochs have shown both of most. Validation images are others.
    assert forwards - HELD_OUT < 2 * 36


@pytest.mark.slow
@pytest.mark.parametrize(
    "effects", [{}, {"augment__auto_augment": "rand-m9-mstd0.5-inc1", "augment__reprob": 0.5}]
)
def test_free_crops_repeat_after_a_cycle(world: World, tmp_path: Path, effects: dict[str, Any]) -> None:
    changes = KD | effects
    changes |= {
        "augment__policy": "random-resized-crop",
        "augment__color_jitter": 0.2,
        "train__epochs": 6,
    }
    with pytest.raises(CacheError, match=r"--augment\.num_views"):
        run(world, tmp_path / "endless", **changes, cache__dir=tmp_path / "cache")
    changes |= {"augment__num_views": 2, "train__batch_size": 12}
    online, _ = run(world, tmp_path / "online", **changes)
    cached, summary = run(world, tmp_path / "cached", **changes, cache__dir=tmp_path / "cache")
    assert online == cached
    (forwards,) = summary["images_through_teachers"].values()
    assert forwards == 2 * 36 + HELD_OUT + len(CLASSES) * TEST
    (manifest,) = [folder for folder in list_caches(tmp_path / "cache") if "-train-" in folder.name]
    assert json.loads((manifest / "manifest.json").read_text())["ingredients"]["seed"] == 0


def test_sparse_caches_train_the_same_first_and_second(world: World, tmp_path: Path) -> None:
    changes = KD | {"cache__dir": tmp_path / "cache", "cache__top_k": 2}
    first, _ = run(world, tmp_path / "a", **changes)
    second, summary = run(world, tmp_path / "b", **changes)
    assert first == second
    assert list(summary["images_through_teachers"].values()) == [0]


def test_a_run_that_was_stopped_goes_on_with_its_cache(world: World, tmp_path: Path) -> None:
    whole, _ = run(world, tmp_path / "whole", **KD)
    folder = {"cache__dir": tmp_path / "cache"}
    run(world, tmp_path / "short", **KD, **folder, train__epochs=1)
    cached, _ = run(world, tmp_path / "cached", **KD, **folder)
    assert whole == cached


def test_what_a_checkpoint_has_behind_it_is_stored(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = world.config(tmp_path / "run", **KD, cache__dir=tmp_path / "cache")

    def killed(self: Trainer) -> None:
        raise KeyboardInterrupt

    epoch = Trainer.end_epoch
    monkeypatch.setattr(Trainer, "end_epoch", lambda self: epoch(self) if self.epoch < 2 else killed(self))
    monkeypatch.setattr(Parts, "flush_caches", once_saved(Parts.flush_caches))
    with pytest.raises(KeyboardInterrupt):
        distill(config, quiet=True)
    monkeypatch.undo()
    distill(config, resume=True, quiet=True)
    again = distill(world.config(tmp_path / "again", **KD, cache__dir=tmp_path / "cache"), quiet=True)
    assert list(again.summary["images_through_teachers"].values()) == [0]


def once_saved(flush: Callable[[Parts], None]) -> Callable[[Parts], None]:
    """Flush when a checkpoint is written, and not at the end of a run, as a kill would have it."""

    def flushed(parts: Parts) -> None:
        if any(frame.function == "save" for frame in inspect.stack()):
            flush(parts)

    return flushed


def outputs(world: World, out: Path, **changes: Any) -> str:
    lines: list[str] = []
    assemble(world.config(out, **changes), CPU, lines.append)
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("changes", "differs"),
    [
        ({"augment__pad": 1}, "views"),
        ({"augment__flip": False}, "views"),
        ({"train__teacher_precision": "bf16"}, "precision"),
        ({"data__val_fraction": 0.5}, "images"),
        ({"cache__top_k": 1}, "row format"),
    ],
)
def test_a_cache_of_other_settings_is_explained_and_not_used(
    world: World, tmp_path: Path, changes: dict[str, Any], differs: str
) -> None:
    settings = KD | {"cache__dir": tmp_path / "cache", "train__teacher_precision": "fp32"}
    run(world, tmp_path / "run", **settings, train__epochs=1)
    log = outputs(world, tmp_path / "other", **settings | changes)
    (line,) = [line for line in log.splitlines() if "not used" in line and "-train-" in line]
    assert line.endswith(f"differs in {differs}")
    assert "0 of" in log


def test_another_teacher_of_the_same_name_is_explained(world: World, tmp_path: Path) -> None:
    settings = KD | {"cache__dir": tmp_path / "cache"}
    make_teacher(tmp_path / "teacher", seed=9)
    outputs(world, tmp_path / "run", **settings)
    log = outputs(
        world, tmp_path / "run", **settings | {"teachers__1__name": f"local-dir:{tmp_path / 'teacher'}"}
    )
    assert "differs in teacher, teacher's weights" in log


class Counting(Teacher):
    """A storable teacher whose outputs are the images' numbers."""

    name, feature_width = "counting", 2

    def __init__(self) -> None:
        self.batches: list[int] = []

    def outputs(self, batch: Batch, views: Views, *, maps: bool = False) -> Output:
        self.batches.append(len(batch.index_B))
        self.computed += len(batch.index_B)
        return Output(batch.index_B[:, None].float().expand(-1, 3), torch.zeros(len(batch.index_B), 2))


def test_a_batch_with_one_new_image_is_computed_whole_and_stored_once(tmp_path: Path) -> None:
    augmentation: Augmentation = CropFlip(8, 0, flip=False)
    inner = Counting()
    cache = OutputCache(tmp_path, Manifest("counting-train", {}, 10, 1, RowFormat(3, 2)))
    teacher = CachedTeacher(inner, {("train", augmentation): cache})

    def ask(*images: int, split: str = "train") -> Output:
        index = torch.tensor(images)
        batch = Batch(split, index, torch.zeros(len(images), 8, 8, 3, dtype=torch.uint8), index)
        return teacher.outputs(batch, augmentation.draw(0, 0, index))

    ask(1, 2, 3)
    assert ask(3, 4, 1).logits_BC[:, 0].tolist() == [3, 4, 1]
    assert (inner.batches, len(cache), teacher.read) == ([3, 3], 4, 0)
    assert ask(4, 2, 1, 3).logits_BC[:, 0].tolist() == [4, 2, 1, 3]
    assert (inner.batches, teacher.read) == ([3, 3], 4)
    ask(1, 2, split="test")
    assert (inner.batches, teacher.read, teacher.computed) == ([3, 3, 2], 4, 8)


class Storable(Counting):
    """A teacher that says what its stored outputs depend on."""

    row_format = RowFormat(3, 2)  # type: ignore[assignment]

    def ingredients(self, *, trained: bool = True) -> dict[str, Any]:
        return {"precision": "bf16" if trained else "fp32"}


def manifests(folder: Path, **changes: Any) -> dict[str, Manifest]:
    """The descriptions of the caches of a teacher for training and test images."""
    images = changes.pop("images", "digest")
    augmentation = changes.pop("augmentation", CropFlip(8, 1))
    store: Any = SimpleNamespace(fingerprint=lambda contents: images, split=range(7))
    arguments: dict[str, Any] = {"class_names": ["ant", "bee", "cat"], "seed": 0, "features": True}
    teacher = with_cache(
        changes.pop("teacher", Storable()),
        CacheConfig(dir=str(folder), **changes.pop("config", {})),
        {"train": store, "test": store},
        {"train": augmentation, "test": Clean(8)},
        log=lambda line: None,
        **arguments | changes,
    )
    assert isinstance(teacher, CachedTeacher)
    return {split: cache.manifest for (split, _), cache in teacher.caches.items()}


def test_each_thing_that_outputs_depend_on_changes_the_name_of_a_cache(tmp_path: Path) -> None:
    free = RandomResizedCrop(cycle=3)
    same = manifests(tmp_path)
    assert manifests(tmp_path) == same
    for changes in (
        {"images": "other"},
        {"class_names": ["bee", "ant", "cat"]},
        {"augmentation": CropFlip(8, 2)},
        {"augmentation": CropFlip(9, 1)},  # as many views
        {"augmentation": CropFlip(8, 1, flip=False)},
        {"augmentation": free},
        {"config": {"top_k": 2}},
    ):
        assert manifests(tmp_path, **changes)["train"].folder != same["train"].folder, changes
    # Numbered views of crops with a border are those of any seed, and free crops are not.
    assert manifests(tmp_path, seed=1) == same
    drawn = [manifests(tmp_path, augmentation=free, seed=seed)["train"].folder for seed in (0, 1, 0)]
    assert drawn[0] == drawn[2] != drawn[1]


def test_held_out_images_have_caches_of_their_own_precision(tmp_path: Path) -> None:
    train, test = manifests(tmp_path)["train"], manifests(tmp_path)["test"]
    assert (train.ingredients["precision"], test.ingredients["precision"]) == ("bf16", "fp32")
    assert (train.row_format.wide, test.row_format.wide) == (False, True)
    sparse = manifests(tmp_path, config={"top_k": 2}, features=False)
    assert [manifest.row_format for manifest in sparse.values()] == [RowFormat(3, 0, 2)] * 2


def test_a_view_is_stored_under_its_own_number(tmp_path: Path) -> None:
    class Numbered(Counting):
        """The outputs are the numbers of images and views."""

        def outputs(self, batch: Batch, views: Views, *, maps: bool = False) -> Output:
            self.batches.append(len(batch.index_B))
            assert views.number_B is not None
            both = torch.stack([batch.index_B, views.number_B], dim=1).float()
            return Output(torch.cat([both, both[:, :1]], dim=1), both)

    augmentation = CropFlip(8, 1)
    cache = OutputCache(tmp_path, Manifest("numbered-train", {}, 10, 18, RowFormat(3, 2)))
    teacher = CachedTeacher(inner := Numbered(), {("train", augmentation): cache})

    def ask(images: list[int], numbers: list[int]) -> list[list[float]]:
        index = torch.tensor(images)
        batch = Batch("train", index, torch.zeros(len(images), 8, 8, 3, dtype=torch.uint8), index)
        return teacher.outputs(batch, augmentation.numbered(torch.tensor(numbers))).feats_BF.tolist()

    ask([1, 2], [5, 7])
    # Image 2 is known in this view, 3 and 1 are not.
    assert ask([2, 3, 1], [7, 9, 17]) == [[2, 7], [3, 9], [1, 17]]
    assert inner.batches == [2, 3]
    assert ask([3, 1, 1, 2], [9, 17, 5, 7]) == [[3, 9], [1, 17], [1, 5], [2, 7]]
    assert inner.batches == [2, 3]
