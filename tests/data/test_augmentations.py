"""Augmentation policies: which views they draw, compared with Python's integers and with distributions."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor
from torchvision.transforms import RandomResizedCrop as RandomResizedCropOfTorchvision

from richkd.config.choices import AUGMENTATIONS
from richkd.config.schema import AugmentConfig
from richkd.core.errors import ConfigError
from richkd.core.seeds import mix_seed
from richkd.data.augmentations import Clean, CropFlip, RandomResizedCrop, build_augmentation, uniform
from richkd.data.views import Augmentation, render
from tests.reference import views as slow

MEAN, STD = (0.5070, 0.4865, 0.4409), (0.2673, 0.2564, 0.2761)
POLICIES: list[Augmentation] = [
    CropFlip(32, 4),
    CropFlip(20, 0, flip=False),
    RandomResizedCrop(color=0.4),
    RandomResizedCrop(scale=(0.08, 1.0), flip=False),
    Clean(32),
]
seeds = st.integers(0, 2**62)
epochs = st.integers(0, 1000)


# Random numbers


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 2**63 - 1), st.lists(st.integers(0, 2**40), min_size=1, max_size=8))
def test_uniform_equals_unsigned_arithmetic(stream: int, index: list[int]) -> None:
    expected = [slow.uniform(stream, i) for i in index]
    assert uniform(stream, torch.tensor(index)).tolist() == expected


def test_uniform_is_uniform_on_the_unit_interval() -> None:
    drawn_N = uniform(mix_seed(3, "test"), torch.arange(100_000))
    assert drawn_N.dtype == torch.float64
    assert drawn_N.min() >= 0
    assert drawn_N.max() < 1
    # The mean of 1e5 such numbers deviates by √(1/12 / 1e5) = 0.0009.
    assert drawn_N.mean().item() == pytest.approx(0.5, abs=0.003)
    assert stats.kstest(drawn_N.numpy(), "uniform").pvalue > 0.01


def test_numbers_of_neighboring_images_and_epochs_are_unrelated() -> None:
    index_N = torch.arange(20_000)
    first_N, second_N = (uniform(mix_seed(0, "view", epoch), index_N) for epoch in (0, 1))
    # A correlation of unrelated numbers deviates by 1 / √20000 = 0.007.
    assert abs(np.corrcoef(first_N, second_N)[0, 1]) < 0.03
    assert abs(np.corrcoef(first_N[1:], first_N[:-1])[0, 1]) < 0.03


# Policies


def test_crop_flip_has_162_views_all_different_and_all_reached() -> None:
    crop = CropFlip(32, 4)
    assert crop.count == 162
    drawn_N = crop.numbers(0, 0, torch.arange(10_000))
    assert set(drawn_N.tolist()) == set(range(162))
    views = crop.numbered(torch.arange(162))
    boxes = {(*box, flip) for box, flip in zip(views.box_B4.tolist(), views.flip_B.tolist(), strict=True)}
    offsets = range(-4, 5)
    assert boxes == {
        (top, left, 32, 32, flip) for top in offsets for left in offsets for flip in (False, True)
    }
    assert views.border == 4
    pixels_BHWC = torch.randint(256, (1, 32, 32, 3), generator=torch.Generator().manual_seed(0))
    pixels_BHWC = pixels_BHWC.to(torch.uint8).expand(162, -1, -1, -1)
    rendered = render(pixels_BHWC, views, 32, MEAN, STD)
    assert len({image.numpy().tobytes() for image in rendered}) == 162


def test_crop_flip_numbers_are_uniform() -> None:
    drawn_N = CropFlip(32, 4).numbers(5, 7, torch.arange(81_000))
    assert stats.chisquare(torch.bincount(drawn_N, minlength=162).numpy()).pvalue > 0.01


def test_crop_flip_without_mirroring_has_half_as_many_views() -> None:
    crop = CropFlip(32, 4, flip=False)
    assert crop.count == 81
    views = crop.draw(0, 0, torch.arange(5000))
    assert not views.flip_B.any()
    assert len(torch.unique(views.box_B4, dim=0)) == 81


def test_an_image_has_other_views_at_other_epochs_and_seeds() -> None:
    index_N = torch.arange(2000)
    crop = CropFlip(32, 4)
    for other_N in (crop.numbers(0, 1, index_N), crop.numbers(1, 0, index_N)):
        # Independent numbers agree with probability 1/162: 12 of 2000 on average, standard deviation 3.5.
        assert 0 < (crop.numbers(0, 0, index_N) == other_N).sum() < 30


@pytest.mark.parametrize("policy", POLICIES, ids=lambda policy: type(policy).__name__)
@settings(max_examples=20, deadline=None)
@given(seeds, epochs, st.lists(st.integers(0, 60_000), min_size=1, max_size=9))
def test_a_view_depends_on_seed_epoch_and_index_alone(
    policy: Augmentation, seed: int, epoch: int, index: list[int]
) -> None:
    together = policy.draw(seed, epoch, torch.tensor(index))
    for place, one in enumerate(index):
        single = policy.draw(seed, epoch, torch.tensor([one]))
        there = together.at(torch.tensor([place]))
        for name in ("box_B4", "flip_B", "color_B3", "key_B"):
            alone, among = getattr(single, name), getattr(there, name)
            assert (alone is None) == (among is None), name
            assert alone is None or torch.equal(alone, among), name


def boxes(policy: RandomResizedCrop, height: int, width: int, count: int) -> Tensor:
    """Crops (top, left, height, width) of many views of one picture."""
    keys = policy.draw(0, 0, torch.arange(count)).key_B
    assert keys is not None
    return torch.tensor([policy.box(key, height, width) for key in keys.tolist()])


@pytest.mark.parametrize(
    ("shape", "scale", "ratio"),
    [
        ((375, 500), (0.35, 1.0), (0.75, 1.333)),
        ((64, 64), (0.08, 1.0), (0.5, 2.0)),
        ((30, 200), (0.2, 0.9), (0.75, 1.333)),  # mostly the fallback
    ],
)
def test_random_resized_crops_have_the_distribution_of_torchvision(
    shape: tuple[int, int], scale: tuple[float, float], ratio: tuple[float, float]
) -> None:
    ours_N4 = boxes(RandomResizedCrop(scale, ratio), *shape, 4000)
    torch.manual_seed(0)
    blank = torch.zeros(1, *shape)
    theirs_N4 = torch.tensor(
        [RandomResizedCropOfTorchvision.get_params(blank, list(scale), list(ratio)) for _ in range(4000)]
    )
    assert (ours_N4[:, :2] >= 0).all()
    assert (ours_N4[:, :2] + ours_N4[:, 2:] <= torch.tensor(shape)).all()
    for column in range(4):
        assert stats.ks_2samp(ours_N4[:, column], theirs_N4[:, column]).pvalue > 0.003, column


def test_the_mean_area_of_crops_of_a_square_is_that_of_torchvision() -> None:
    """At scale (0.35, 1), draws that do not fit are repeated, which favors small areas: 0.616, not 0.675."""
    crops_N4 = boxes(RandomResizedCrop(), 512, 512, 20_000).double()
    assert (crops_N4[:, 2] * crops_N4[:, 3] / 512**2).mean().item() == pytest.approx(0.616, abs=0.004)


def test_half_of_the_views_are_mirrored_and_colors_are_uniform() -> None:
    views = RandomResizedCrop(color=0.3).draw(0, 0, torch.arange(20_000))
    assert views.flip_B.double().mean().item() == pytest.approx(0.5, abs=0.015)
    assert views.color_B3 is not None
    for factor in views.color_B3.double().unbind(dim=1):
        assert stats.kstest(factor.numpy(), "uniform", args=(0.7, 0.6)).pvalue > 0.01
    assert not RandomResizedCrop(flip=False).draw(0, 0, torch.arange(99)).flip_B.any()


def test_crop_mirroring_and_colors_of_a_view_are_independent() -> None:
    policy = RandomResizedCrop(color=0.3)
    views = policy.draw(0, 0, torch.arange(10_000))
    assert views.color_B3 is not None
    assert views.key_B is not None
    crops = torch.tensor([policy.box(key, 100, 100) for key in views.key_B.tolist()]).double()
    drawn = torch.cat([crops, views.flip_B[:, None], views.color_B3, views.key_B[:, None] / 2**53], dim=1)
    related = np.corrcoef(drawn.double().numpy().T)
    # Height and width of a crop limit its place, and the key decides on it alone.
    related[:4, :4] = 0
    np.fill_diagonal(related, 0)
    # A correlation of independent numbers deviates by 1/√10000 = 0.01.
    assert np.abs(related).max() < 0.05


def test_settings_select_the_augmentation() -> None:
    assert build_augmentation(AugmentConfig(), 32) == CropFlip(32, 4, True)
    assert build_augmentation(AugmentConfig(), 64) == CropFlip(64, 8, True)
    assert build_augmentation(AugmentConfig(pad=0, flip=False), 64) == CropFlip(64, 0, False)
    assert build_augmentation(AugmentConfig(policy="clean"), 28) == Clean(28)
    config = AugmentConfig(
        policy="random-resized-crop", scale=(0.1, 0.9), ratio=(0.5, 2), flip=False, color_jitter=0.2
    )
    assert build_augmentation(config, 96) == RandomResizedCrop((0.1, 0.9), (0.5, 2), False, 0.2)


def test_each_registered_policy_can_be_selected() -> None:
    assert list(AUGMENTATIONS) == ["crop-flip", "random-resized-crop", "clean"]
    built = [build_augmentation(AugmentConfig(policy=name), 32) for name in AUGMENTATIONS]
    assert [type(augmentation) for augmentation in built] == [CropFlip, RandomResizedCrop, Clean]
    assert all(entry.summary for entry in AUGMENTATIONS.entries())


def test_an_unknown_policy_is_rejected_with_the_nearest_name() -> None:
    config = AugmentConfig.model_construct(policy="crop-flop")
    with pytest.raises(ConfigError, match=r"augmentation policy 'crop-flop'(.|\n)*'crop-flip'"):
        build_augmentation(config, 32)


@settings(max_examples=30, deadline=None)
@given(seeds, epochs, st.integers(1, 5))
def test_a_cycle_repeats_the_views_by_number(seed: int, epoch: int, cycle: int) -> None:
    index_N = torch.arange(6)
    endless, repeated = RandomResizedCrop(), RandomResizedCrop(cycle=cycle)
    assert (endless.count, repeated.count) == (None, cycle)
    assert endless.draw(seed, epoch, index_N).number_B is None
    views, number = repeated.draw(seed, epoch, index_N), epoch % cycle
    assert views.number_B is not None
    assert views.number_B.tolist() == [number] * 6
    for other in (endless.draw(seed, number, index_N), repeated.view(seed, number, index_N)):
        assert views.key_B is not None
        assert other.key_B is not None
        assert torch.equal(views.key_B, other.key_B)
