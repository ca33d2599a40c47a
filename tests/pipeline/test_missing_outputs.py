"""How many teacher outputs a run will have to compute."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from richkd.config.schema import Config
from richkd.core.types import Output
from richkd.pipeline.assemble import Parts, assemble
from richkd.pipeline.missing_outputs import count_missing_outputs
from richkd.teachers.cache.store import OutputCache
from richkd.training.run import distill
from tests.fixtures import World

EPOCHS, BATCH = 5, 9


@pytest.fixture
def config(world: World, tmp_path: Path) -> Config:
    # Nine images divide the 36, so every epoch has every image.
    changes: dict[str, Any] = {
        "augment.policy": "random-resized-crop",
        "augment.num_views": 2,
        "train.batch_size": BATCH,
        "train.epochs": EPOCHS,
        "method.name": "kd",
        "cache.dir": str(tmp_path / "cache"),
    }
    return world.config(tmp_path / "run", **changes)


def parts_of(config: Config) -> Parts:
    return assemble(config, torch.device("cpu"))


def cache_of_train(parts: Parts) -> OutputCache:
    (teacher,) = parts.teachers
    return teacher.caches["train", parts.augmentation]


def test_a_run_computes_as_many_outputs_as_were_missing(config: Config) -> None:
    before = count_missing_outputs(parts_of(config))
    assert before.steps == 2 * 36 / BATCH, "two views of each image, then all are stored"
    distill(config, quiet=True)
    parts = parts_of(config)
    (teacher,) = parts.teachers
    stored = sum(len(cache) * cache.format.row_bytes for cache in teacher.caches.values())
    after = count_missing_outputs(parts)
    assert after.steps == 0
    # A run evaluates its teachers on one of the held-out splits.
    assert before.size == stored + after.size
    assert len(cache_of_train(parts)) == 2 * 36


def test_a_batch_is_computed_if_one_of_its_images_is_missing(config: Config) -> None:
    parts = parts_of(config)
    cache, teacher = cache_of_train(parts), parts.teachers[0]
    groups = parts.order().epoch(0)
    for batch in parts.training_batches(0, groups[:1]):
        views = parts.augmentation.draw(config.train.seed, 0, batch.index_B)
        # All outputs of the first step are stored, except for one image.
        output = teacher.uncached.outputs(batch, views)
        assert views.number_B is not None
        cache.add(
            batch.index_B[1:], views.number_B[1:], type(output)(output.logits_BC[1:], output.feats_BF[1:])
        )
    assert count_missing_outputs(parts).steps == 2 * 36 / BATCH
    last = Output(output.logits_BC[:1], output.feats_BF[:1])
    cache.add(batch.index_B[:1], views.number_B[:1], last)
    assert count_missing_outputs(parts).steps == 2 * 36 / BATCH - 1


def test_nothing_is_missing_without_a_cache(world: World, tmp_path: Path) -> None:
    missing = count_missing_outputs(parts_of(world.config(tmp_path / "run", method__name="kd")))
    assert (missing.steps, missing.size) == (0, 0)
