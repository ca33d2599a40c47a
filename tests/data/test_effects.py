"""Effects in views: functions of seed, image and epoch, in the order of timm, read from the settings."""

from __future__ import annotations

import json

import pytest
import torch

from richkd.config.schema import AugmentConfig
from richkd.core.errors import ConfigError
from richkd.core.seeds import mix_seed
from richkd.core.types import Batch
from richkd.data.augmentations import RandomResizedCrop, build_augmentation
from richkd.data.auto_augment import auto_augment
from richkd.data.effects import Effects, read_effects
from richkd.data.erasing import erase
from richkd.data.pictures import Pictures
from richkd.data.split import Split
from richkd.teachers.cache.cached import described
from tests.data.test_pictures import smooth, split_of

SIZES = (24, 40)
ALL = Effects("rand-m9-mstd0.5-inc1", 0.5, "pixel", 2)
POLICY = RandomResizedCrop(cycle=3, effects=ALL)
GROUPS = [torch.tensor([2, 0, 5]), torch.tensor([6, 1]), torch.tensor([3, 4])]


@pytest.fixture(scope="module")
def split() -> Split:
    return split_of([smooth(60 + 9 * i, 130 - 11 * i, seed=i) for i in range(7)])


def read(pictures: Pictures, groups: list[torch.Tensor], policy: RandomResizedCrop = POLICY) -> list[Batch]:
    return list(pictures.batches(groups, [policy.draw(3, 1, index_B) for index_B in groups]))


def by_image(batches: list[Batch], size: int) -> dict[int, torch.Tensor]:
    return {
        index: crop_SS3
        for batch in batches
        for index, crop_SS3 in zip(batch.index_B.tolist(), batch.crops[size], strict=True)
    }


@pytest.mark.parametrize("in_memory", [False, True])
@pytest.mark.parametrize("workers", [0, 2])
def test_views_do_not_depend_on_workers_memory_batches_and_order(
    split: Split, workers: int, in_memory: bool
) -> None:
    expected = read(Pictures(split, 50, SIZES, workers=0), GROUPS)
    pictures = Pictures(split, 50, SIZES, workers, in_memory)
    others = [torch.tensor([4, 6]), torch.tensor([1, 2, 3]), torch.tensor([0, 5])]
    for groups in (GROUPS, others, [torch.arange(7)], GROUPS):
        batches = read(pictures, groups)
        for size in SIZES:
            ours, theirs = by_image(batches, size), by_image(expected, size)
            assert len(ours) == 7
            assert all(torch.equal(ours[index], theirs[index]) for index in range(7))


def test_a_view_does_not_depend_on_which_sizes_are_rendered(split: Split) -> None:
    both = read(Pictures(split, 50, SIZES, workers=0), GROUPS)
    for size in SIZES:
        alone = read(Pictures(split, 50, (size,), workers=0), GROUPS)
        for one, other in zip(alone, both, strict=True):
            assert torch.equal(one.crops[size], other.crops[size])


def test_effects_change_the_resized_crop_first_by_the_policy_then_by_erasing(split: Split) -> None:
    plain = read(Pictures(split, 50, SIZES, workers=0), GROUPS, RandomResizedCrop(cycle=3))
    altered = read(Pictures(split, 50, SIZES, workers=0), GROUPS)
    name = str(ALL.auto_augment)
    for before, after, index_B in zip(plain, altered, GROUPS, strict=True):
        keys = POLICY.draw(3, 1, index_B).key_B
        assert keys is not None
        for place, key in enumerate(keys.tolist()):
            seed = mix_seed(key, "auto augment")
            crops = {size: auto_augment(before.crops[size][place], name, seed) for size in SIZES}
            erased = erase(crops, 0.5, "pixel", 2, mix_seed(key, "erase"))
            for size in SIZES:
                assert torch.equal(after.crops[size][place], erased[size])


def test_other_seeds_epochs_and_images_have_other_effects() -> None:
    crops = {16: torch.full((16, 16, 3), 255, dtype=torch.uint8)}
    effects = Effects(reprob=1.0)
    keys: list[int] = []
    for seed, epoch in ((0, 0), (0, 1), (1, 0)):
        key_B = RandomResizedCrop().draw(seed, epoch, torch.arange(20)).key_B
        assert key_B is not None
        keys += key_B.tolist()
    altered = {effects.alter(crops, key)[16].numpy().tobytes() for key in keys}
    assert len(altered) == len(keys)


def test_pictures_in_memory_are_not_changed(split: Split) -> None:
    whole = RandomResizedCrop(scale=(1.0, 1.0), ratio=(1.0, 1.0), effects=Effects(reprob=1.0))
    squares = split_of([smooth(24, 24, seed=i) for i in range(3)])
    pictures = Pictures(squares, 24, (24,), 0, in_memory=True)
    before = [pixels.clone() for pixels in pictures._decoded.values()]
    (batch,) = read(pictures, [torch.arange(3)], whole)
    for place, (pixels, copy) in enumerate(zip(pictures._decoded.values(), before, strict=True)):
        assert torch.equal(pixels, copy)
        assert not torch.equal(batch.crops[24][place], copy)


def test_settings_select_effects() -> None:
    crop = {"policy": "random-resized-crop"}
    assert build_augmentation(AugmentConfig(**crop), 32) == RandomResizedCrop()
    assert read_effects(AugmentConfig(**crop, recount=2, remode="rand")) is None
    for settings in (
        {"auto_augment": "augmix-m3-w3"},
        {"reprob": 0.25, "remode": "const", "recount": 3},
        {"auto_augment": "3a", "reprob": 1.0},
    ):
        augmentation = build_augmentation(AugmentConfig(**crop, **settings), 32)
        assert augmentation == RandomResizedCrop(effects=Effects(**settings))


def test_a_policy_that_timm_does_not_know_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"Unknown AA policy autoaugment"):
        build_augmentation(AugmentConfig(policy="random-resized-crop", auto_augment="autoaugment"), 32)


def test_a_cache_is_named_after_all_effects() -> None:
    """Without effects, the name is that of earlier versions."""
    assert "effects" not in described(RandomResizedCrop())
    variants = [
        None,
        Effects("v0"),
        Effects("v0r"),
        Effects(reprob=0.1),
        Effects(reprob=0.2),
        Effects(reprob=0.1, remode="rand"),
        Effects(reprob=0.1, recount=2),
    ]
    texts = [json.dumps(described(RandomResizedCrop(effects=effects))) for effects in variants]
    assert len(set(texts)) == len(texts)
    for text, effects in zip(texts, variants, strict=True):
        # What is read back from a cache's folder equals what it is compared with.
        assert json.loads(text) == described(RandomResizedCrop(effects=effects))
