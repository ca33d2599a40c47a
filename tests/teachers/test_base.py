"""What every teacher promises: defaults, samples, and new prompts and caches that change nothing else."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn import functional

import richkd.demo
from richkd.config.schema import CacheConfig, DataConfig
from richkd.core.types import UNLABELED, Batch, Output
from richkd.data.augmentations import Clean
from richkd.data.batches import Resident, open_store
from richkd.data.framing import Framing
from richkd.data.sources import open_data
from richkd.data.views import Views
from richkd.evaluate.corruptions.stores import CorruptedStore
from richkd.teachers.base import Teacher
from richkd.teachers.cache.cached import CachedTeacher, with_cache
from richkd.teachers.cache.row_format import RowFormat
from richkd.teachers.clip.load import load_clip
from richkd.teachers.clip.model import ClipTeacher
from richkd.teachers.clip.prompt_weights import PromptSet
from richkd.teachers.precomputed.clip import load_given
from richkd.teachers.predict import outputs_of
from tests.fixtures import CLASSES, SIZE, World

CPU = torch.device("cpu")
TEMPLATES = ("a photo of a {}", "a drawing of a {}")


class MeanPixel(Teacher):
    """A teacher whose outputs are functions of the pixels that it is given."""

    name, feature_width, sees_pixels = "mean pixel", 2, True

    def outputs(self, batch: Batch, views: Views, *, maps: bool = False) -> Output:
        self.computed += len(batch)
        mean_B3 = batch.pixels_BHWC.float().mean(dim=(1, 2))
        return Output(mean_B3.half().float(), mean_B3[:, :2].half().float())

    @property
    def row_format(self) -> RowFormat:
        return RowFormat(3, 2)


@pytest.fixture(scope="module")
def store(world: World) -> Resident:
    """The test images."""
    opened = open_store(open_data(DataConfig(path=str(world.images)), 0).splits["test"], Framing(SIZE))
    assert isinstance(opened, Resident)
    return opened


@pytest.fixture(scope="module")
def model_teacher() -> ClipTeacher:
    """The tiny CLIP of the demo, on the classes of the small world."""
    clip = load_clip(f"local-dir:{Path(richkd.demo.__file__).parent / 'tiny_clip'}")
    prompts = [[template.replace("{}", name) for template in TEMPLATES] for name in ("zero", "one", "two")]
    embeddings_PCD = torch.stack(clip.embed_each(prompts), dim=1)
    prompt_set = PromptSet(TEMPLATES, embeddings_PCD)
    return ClipTeacher(clip, prompt_set.class_embeddings(torch.ones(2) / 2), lambda: prompt_set)


def given_teacher(world: World, store: Resident) -> Teacher:
    return load_given(world.clip, {"test": store.split.keys()}, CLASSES)


def cached(teacher: Teacher, store: Resident, folder: Path) -> CachedTeacher:
    """The teacher with a cache of the clean test images."""
    result = with_cache(
        teacher,
        CacheConfig(dir=folder),
        {"test": store},
        {"test": Clean(SIZE)},
        CLASSES,
        seed=0,
        features=True,
        log=lambda message: None,
    )
    assert isinstance(result, CachedTeacher)
    return result


def cosines(feats_NF: Tensor, embeddings_CD: Tensor) -> Tensor:
    return functional.normalize(feats_NF, dim=1) @ functional.normalize(embeddings_CD, dim=1).T


def assert_reweighting_leaves_the_old_teacher_alone(teacher: Teacher, store: Resident) -> Teacher:
    """Ask a teacher for a new one with the class embeddings in reverse; returns the new one."""
    zero_shot = teacher.zero_shot
    assert zero_shot is not None
    embeddings_CD = zero_shot.class_embeddings_CD.clone()
    before = outputs_of(teacher, store, CPU)
    new = zero_shot.reweighted(embeddings_CD.flip(0))
    assert new is not teacher
    assert type(new) is type(teacher)
    after, changed = outputs_of(teacher, store, CPU), outputs_of(new, store, CPU)
    # The old teacher, its embeddings and its outputs are as they were.
    assert teacher.zero_shot is not None
    assert torch.equal(teacher.zero_shot.class_embeddings_CD, embeddings_CD)
    assert torch.equal(after.logits_BC, before.logits_BC)
    assert torch.equal(after.feats_BF, before.feats_BF)
    # The new one has the same features, and cosines with the new embeddings.
    assert new.zero_shot is not None
    torch.testing.assert_close(new.zero_shot.class_embeddings_CD, embeddings_CD.flip(0))
    assert torch.equal(changed.feats_BF, before.feats_BF)
    torch.testing.assert_close(changed.logits_BC, cosines(before.feats_BF, embeddings_CD.flip(0)))
    assert not torch.equal(changed.logits_BC, before.logits_BC)
    for name in ("name", "feature_width", "logit_scale", "role", "sees_pixels"):
        assert getattr(new, name) == getattr(teacher, name), name
    return new


def test_new_prompts_make_a_new_teacher_of_a_model(model_teacher: ClipTeacher, store: Resident) -> None:
    new = assert_reweighting_leaves_the_old_teacher_alone(model_teacher, store)
    assert new.zero_shot is not None
    prompts = new.zero_shot.prompts()
    assert prompts is not None
    assert prompts.templates == TEMPLATES


def test_new_prompts_make_a_new_teacher_of_given_outputs(world: World, store: Resident) -> None:
    assert_reweighting_leaves_the_old_teacher_alone(given_teacher(world, store), store)


def test_new_prompts_behind_a_cache_make_a_new_teacher_that_reads_the_same_cache(
    model_teacher: ClipTeacher, store: Resident, tmp_path: Path
) -> None:
    teacher = cached(model_teacher, store, tmp_path)
    filling = outputs_of(teacher, store, CPU)
    computed = model_teacher.computed
    new = assert_reweighting_leaves_the_old_teacher_alone(teacher, store)
    assert isinstance(new, CachedTeacher)
    # Features do not depend on the prompts, so neither teacher computes again.
    assert (model_teacher.computed, new.computed) == (computed, 0)
    assert new.read == len(store.split)
    direct = model_teacher.zero_shot.reweighted(model_teacher.class_embeddings_CD.flip(0))
    assert torch.equal(outputs_of(new, store, CPU).logits_BC, outputs_of(direct, store, CPU).logits_BC)
    assert torch.equal(outputs_of(teacher, store, CPU).logits_BC, filling.logits_BC)


def test_what_a_new_teacher_computes_is_in_the_cache_of_the_old_one(
    model_teacher: ClipTeacher, store: Resident, tmp_path: Path
) -> None:
    teacher = cached(model_teacher, store, tmp_path)
    assert teacher.zero_shot is not None
    new = teacher.zero_shot.reweighted(model_teacher.class_embeddings_CD.flip(0))
    outputs_of(new, store, CPU)
    assert new.computed == len(store.split)
    before = model_teacher.computed
    result = outputs_of(teacher, store, CPU)
    assert model_teacher.computed == before
    torch.testing.assert_close(result.logits_BC, cosines(result.feats_BF, model_teacher.class_embeddings_CD))


def test_corrupted_images_are_computed_although_clean_ones_are_cached(
    store: Resident, tmp_path: Path
) -> None:
    inner = MeanPixel()
    teacher = cached(inner, store, tmp_path)
    clean = outputs_of(teacher, store, CPU)
    images = len(store.split)
    assert torch.equal(outputs_of(teacher, store, CPU).logits_BC, clean.logits_BC)
    assert (inner.computed, teacher.read) == (images, images)
    for severity in (1, 5):
        corrupted = CorruptedStore(store, "brightness", severity)
        result = outputs_of(teacher, corrupted, CPU)
        # Read from nowhere, and stored nowhere.
        assert teacher.read == images
        expected = outputs_of(MeanPixel(), corrupted, CPU)
        assert torch.equal(result.logits_BC, expected.logits_BC)
        assert torch.equal(result.feats_BF, expected.feats_BF)
        assert not torch.equal(result.logits_BC, clean.logits_BC)
    assert inner.computed == 3 * images
    assert torch.equal(outputs_of(teacher, store, CPU).logits_BC, clean.logits_BC)
    teacher.flush()
    again = cached(MeanPixel(), store, tmp_path)
    assert torch.equal(outputs_of(again, store, CPU).logits_BC, clean.logits_BC)
    assert (again.computed, again.read) == (0, images)


def test_corrupted_images_do_not_fill_an_empty_cache(store: Resident, tmp_path: Path) -> None:
    teacher = cached(MeanPixel(), store, tmp_path)
    outputs_of(teacher, CorruptedStore(store, "brightness", 3), CPU)
    assert [len(cache) for cache in teacher.caches.values()] == [0]
    clean = outputs_of(teacher, store, CPU)
    assert torch.equal(clean.logits_BC, outputs_of(MeanPixel(), store, CPU).logits_BC)


def test_a_cached_teacher_is_asked_through_the_same_members(store: Resident, tmp_path: Path) -> None:
    inner = MeanPixel()
    teacher = cached(inner, store, tmp_path)
    assert teacher.uncached is inner
    assert inner.uncached is inner
    assert (teacher.name, teacher.feature_width, teacher.role) == ("mean pixel", 2, "teacher")
    assert (teacher.logit_scale, teacher.sees_pixels, teacher.network) == (1.0, True, None)
    assert teacher.zero_shot is None
    assert teacher.describe() == inner.describe() == "mean pixel, width 2"


def test_a_teacher_needs_nothing_but_outputs(store: Resident) -> None:
    class Least(Teacher):
        name, feature_width = "least", 0

        def outputs(self, batch: Batch, views: Views, *, maps: bool = False) -> Output:
            return Output(torch.zeros(len(batch), 3), torch.zeros(len(batch), 0))

    teacher = Least()
    assert (teacher.logit_scale, teacher.computed, teacher.sees_pixels) == (1.0, 0, False)
    assert (teacher.network, teacher.zero_shot, teacher.row_format) == (None, None, None)
    assert teacher.ingredients() == {}
    teacher.flush()
    output = outputs_of(teacher, store, CPU)
    assert teacher.restored(output) is output
    # Outputs that must not be cached are not.
    assert (
        with_cache(
            teacher,
            CacheConfig(dir=Path("never created")),
            {"test": store},
            {"test": Clean(SIZE)},
            CLASSES,
            seed=0,
            features=True,
            log=lambda message: None,
        )
        is teacher
    )
    with pytest.raises(TypeError, match="abstract"):
        Teacher()  # type: ignore[abstract]


def test_a_sample_is_of_labeled_images_only(store: Resident) -> None:
    labels_N = store.split.labels_N.clone()
    labels_N[::2] = UNLABELED
    partly = replace(store, split=replace(store.split, labels_N=labels_N))
    sample = MeanPixel().sample(partly, CPU, 4)
    assert len(sample.index_N) == len(sample.output.logits_BC) == 4
    assert (labels_N[sample.index_N] != UNLABELED).all()
    whole = outputs_of(MeanPixel(), store, CPU)
    assert torch.equal(sample.output.logits_BC, whole.logits_BC[sample.index_N])
    assert sample.what == "training images"
