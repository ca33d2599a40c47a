"""Views: which are drawn, against Python's integers; what they show, against loops, PIL and torchvision."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy import stats
from torch import Tensor
from torch.nn import functional
from torchvision.transforms import functional as vision

from richkd.config.schema import AugmentConfig
from richkd.core.seeds import mix_seed
from richkd.data.views import (
    Augmentation,
    Clean,
    CropFlip,
    RandomResizedCrop,
    Views,
    build_augmentation,
    render,
    resampling_matrix,
    uniform,
)
from tests.reference import views as slow

MEAN, STD = (0.5070, 0.4865, 0.4409), (0.2673, 0.2564, 0.2761)
NONE, ONE = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
RECIPES: list[Augmentation] = [
    CropFlip(32, 4),
    CropFlip(20, 0, flip=False),
    RandomResizedCrop(32, color=0.4),
    RandomResizedCrop(48, scale=(0.08, 1.0), flip=False),
    Clean(32),
]
seeds = st.integers(0, 2**62)
epochs = st.integers(0, 1000)


def noise(images: int, size: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(256, (images, size, size, 3), dtype=torch.uint8, generator=generator)


def smooth(images: int, size: int) -> Tensor:
    """Images of low frequencies, which look alike at any resolution that shows them."""
    at = (torch.arange(size) + 0.5) / size
    y, x = torch.meshgrid(at, at, indexing="ij")
    waves = [
        torch.stack([torch.cos(3 * x + i), torch.sin(2 * y - i), torch.cos(x + 2 * y)]) for i in range(images)
    ]
    return ((torch.stack(waves) + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def box_views(boxes: list[list[float]], flips: list[bool] | None = None, border: int = 0) -> Views:
    return Views(torch.tensor(boxes), torch.tensor(flips or [False] * len(boxes)), border)


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


# What is drawn


def test_crop_flip_has_162_views_all_different_and_all_reached() -> None:
    crop = CropFlip(32, 4)
    assert crop.count == 162
    drawn_N = crop.numbers(0, 0, torch.arange(10_000))
    assert set(drawn_N.tolist()) == set(range(162))
    views = crop.numbered(torch.arange(162))
    shown = {(*box, flip) for box, flip in zip(views.box_B4.tolist(), views.flip_B.tolist(), strict=True)}
    offsets = range(-4, 5)
    assert shown == {
        (top, left, 32, 32, flip) for top in offsets for left in offsets for flip in (False, True)
    }
    assert views.border == 4
    rendered = render(noise(1, 32).expand(162, -1, -1, -1), views, 32, MEAN, STD)
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


def test_an_image_sees_other_views_at_other_epochs_and_seeds() -> None:
    index_N = torch.arange(2000)
    crop = CropFlip(32, 4)
    for other_N in (crop.numbers(0, 1, index_N), crop.numbers(1, 0, index_N)):
        # Unrelated numbers agree once in 162 times: 12 of 2000, give or take 3.5.
        assert 0 < (crop.numbers(0, 0, index_N) == other_N).sum() < 30


@pytest.mark.parametrize("drawer", RECIPES, ids=lambda drawer: type(drawer).__name__)
@settings(max_examples=20, deadline=None)
@given(seeds, epochs, st.lists(st.integers(0, 60_000), min_size=1, max_size=9))
def test_a_view_depends_on_seed_epoch_and_index_alone(
    drawer: Augmentation, seed: int, epoch: int, index: list[int]
) -> None:
    together = drawer.draw(seed, epoch, torch.tensor(index))
    for place, one in enumerate(index):
        single = drawer.draw(seed, epoch, torch.tensor([one]))
        assert torch.equal(single.box_B4[0], together.box_B4[place])
        assert torch.equal(single.flip_B[0], together.flip_B[place])
        assert (single.color_B3 is None) == (together.color_B3 is None)
        if single.color_B3 is not None and together.color_B3 is not None:
            assert torch.equal(single.color_B3[0], together.color_B3[place])


def test_random_resized_crop_keeps_to_its_ranges() -> None:
    drawer = RandomResizedCrop(64, scale=(0.2, 0.5), ratio=(0.8, 1.25), color=0.3)
    views = drawer.draw(0, 0, torch.arange(20_000))
    top, left, height, width = views.box_B4.double().unbind(dim=1)
    slack = 1e-3  # boxes are float32
    assert min(top.min(), left.min()) >= 0
    assert max((top + height).max(), (left + width).max()) <= 64 + slack
    share, ratio = height * width / 64**2, width / height
    assert stats.kstest(share.numpy(), "uniform", args=(0.2, 0.3)).pvalue > 0.01
    log_range = (np.log(0.8), np.log(1.25) - np.log(0.8))
    assert stats.kstest(ratio.log().numpy(), "uniform", args=log_range).pvalue > 0.01
    assert stats.kstest((top / (64 - height)).numpy(), "uniform").pvalue > 0.01
    assert stats.kstest((left / (64 - width)).numpy(), "uniform").pvalue > 0.01
    assert views.flip_B.double().mean().item() == pytest.approx(0.5, abs=0.015)
    assert views.color_B3 is not None
    for factor in views.color_B3.double().unbind(dim=1):
        assert stats.kstest(factor.numpy(), "uniform", args=(0.7, 0.6)).pvalue > 0.01


def test_random_resized_crop_cuts_sides_to_the_source() -> None:
    views = RandomResizedCrop(30, scale=(1.0, 1.0), ratio=(0.5, 2.0)).draw(0, 0, torch.arange(500))
    height, width = views.box_B4[:, 2], views.box_B4[:, 3]
    assert (torch.maximum(height, width) == 30).all()
    assert (torch.minimum(height, width) < 30).any()


def test_settings_name_the_recipe() -> None:
    assert build_augmentation(AugmentConfig(), 32) == CropFlip(32, 4, True)
    assert build_augmentation(AugmentConfig(), 64) == CropFlip(64, 8, True)
    assert build_augmentation(AugmentConfig(pad=0, flip=False), 64) == CropFlip(64, 0, False)
    assert build_augmentation(AugmentConfig(policy="clean"), 28) == Clean(28)
    asked = AugmentConfig(
        policy="random-resized-crop", scale=(0.1, 0.9), ratio=(0.5, 2), flip=False, color_jitter=0.2
    )
    assert build_augmentation(asked, 96) == RandomResizedCrop(96, (0.1, 0.9), (0.5, 2), False, 0.2)


# What is shown


def test_crop_flip_equals_the_loop_bit_for_bit() -> None:
    pixels = noise(24, 16)
    views = CropFlip(16, 3).draw(1, 2, torch.arange(24))
    fast = render(pixels, views, 16, MEAN, STD)
    assert fast.dtype == torch.float32
    for b in range(24):
        top, left = (int(value) for value in views.box_B4[b, :2])
        seen = slow.crop_flip(pixels[b].numpy(), top, left, 16, 3, bool(views.flip_B[b]))
        assert (fast[b].numpy() == slow.normalize(seen, MEAN, STD)).all()


def test_what_lies_past_the_source_is_black() -> None:
    white = torch.full((1, 8, 8, 3), 255, dtype=torch.uint8)
    shifted = render(white, box_views([[-2, 3, 8, 8]], border=3), 8, NONE, ONE)[0]
    expected = torch.zeros(8, 8)
    expected[2:, :5] = 1
    assert torch.equal(shifted, expected.expand(3, 8, 8))
    black = (0 - torch.tensor(MEAN)) / torch.tensor(STD)
    assert torch.equal(render(white, box_views([[-2, 3, 8, 8]], border=3), 8, MEAN, STD)[0, :, 0, 7], black)


def resampled(pixels: Tensor, views: Views, size: int) -> Tensor:
    """The pixels by way of the resampling path, in 0..1."""
    rows = resampling_matrix(views.box_B4[:, 0], views.box_B4[:, 2], pixels.shape[1], size, views.border)
    cols = resampling_matrix(views.box_B4[:, 1], views.box_B4[:, 3], pixels.shape[2], size, views.border)
    seen = torch.einsum("boh,bhwc,bpw->bcop", rows, pixels.float() / 255, cols)
    return torch.where(views.flip_B[:, None, None, None], seen.flip(3), seen)


def test_resampling_of_whole_pixels_is_the_plain_crop() -> None:
    pixels, views = noise(40, 16), CropFlip(16, 4).draw(0, 0, torch.arange(40))
    plain = render(pixels, views, 16, NONE, ONE)
    assert torch.allclose(resampled(pixels, views, 16), plain, atol=1e-6, rtol=0)
    # The same box moved by a hair takes the other path through render itself.
    hair = Views(views.box_B4 + 1e-6 * torch.tensor([0, 0, 1, 1]) * 16, views.flip_B, views.border)
    assert not torch.equal(hair.box_B4, views.box_B4)
    assert torch.allclose(render(pixels, hair, 16, NONE, ONE), plain, atol=1e-4, rtol=0)


@pytest.mark.parametrize("size", [5, 11, 23])
def test_resampling_equals_the_loop(size: int) -> None:
    pixels = noise(3, 11, seed=1)
    boxes = [[-2.0, -1.5, 9.5, 12.0], [0.25, 3.5, 10.75, 5.5], [1.0, 0.0, 12.0, 11.0]]
    views = box_views(boxes, [True, False, True], border=2)
    fast = render(pixels, views, size, NONE, ONE)
    for b in range(3):
        expected = slow.resize(pixels[b].numpy(), boxes[b], bool(views.flip_B[b]), size, 2)
        assert np.allclose(fast[b].permute(1, 2, 0).numpy(), expected, atol=2e-6, rtol=0)


@pytest.mark.parametrize(("source", "size"), [(32, 20), (32, 7), (20, 33), (16, 64), (48, 47)])
def test_whole_images_are_resized_as_torch_and_pil_do(source: int, size: int) -> None:
    pixels = noise(2, source)
    seen = render(pixels, Clean(source).draw(0, 0, torch.arange(2)), size, NONE, ONE)
    planes = pixels.permute(0, 3, 1, 2)
    torchs = functional.interpolate(
        planes.double() / 255, (size, size), mode="bilinear", antialias=True, align_corners=False
    )
    # Positions near 48 are float32 numbers 4e-6 apart, along two axes, times differences up to 1.
    assert torch.allclose(seen.double(), torchs, atol=2e-5, rtol=0)
    for b in range(2):
        resized = Image.fromarray(pixels[b].numpy()).resize((size, size), Image.Resampling.BILINEAR)
        # PIL rounds to 8 bits after each of its two passes, half a level each.
        assert np.abs(seen[b].permute(1, 2, 0).numpy() * 255 - np.asarray(resized)).max() < 1.01


def test_one_view_shows_the_same_at_two_resolutions() -> None:
    pixels = smooth(12, 48)
    for drawer in (CropFlip(48, 6), RandomResizedCrop(48, scale=(0.3, 0.8))):
        views = drawer.draw(0, 0, torch.arange(12))
        small, large = (render(pixels, views, size, NONE, ONE) for size in (24, 96))
        shrunk = functional.avg_pool2d(large, 4)
        # Away from the edge that a black border makes, which each resolution blurs in its own way.
        visible = functional.avg_pool2d((shrunk.sum(1, keepdim=True) > 0.01).float(), 5, 1, 2) == 1
        assert visible.float().mean() > 0.5
        difference = ((small - shrunk).abs() * visible).amax()
        assert difference < 0.02
        other = render(pixels, drawer.draw(0, 1, torch.arange(12)), 24, NONE, ONE)
        assert ((other - shrunk).abs() * visible).amax() > 0.2


@pytest.mark.parametrize("size", [16, 24])
def test_mirroring_mirrors_what_is_seen(size: int) -> None:
    pixels = noise(1, 16)
    boxes = [[1.0, -2.0, 16.0, 16.0]]
    plain, mirrored = (
        render(pixels, box_views(boxes, [flip], border=2), size, NONE, ONE) for flip in (False, True)
    )
    assert torch.equal(mirrored, plain.flip(3))
    assert not torch.equal(mirrored, plain)


@pytest.mark.parametrize("size", [16, 24])
def test_results_lie_channels_last(size: int) -> None:
    seen = render(noise(3, 16), CropFlip(16, 2).draw(0, 0, torch.arange(3)), size, MEAN, STD)
    assert seen.shape == (3, 3, size, size)
    assert seen.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("size", [16, 24])
def test_color_factors_of_one_change_nothing(size: int) -> None:
    pixels = noise(4, 16)
    views = CropFlip(16, 2).draw(0, 0, torch.arange(4))
    colored = Views(views.box_B4, views.flip_B, views.border, torch.ones(4, 3))
    a, b = (render(pixels, v, size, MEAN, STD) for v in (views, colored))
    # Resampled whites may pass 1 by rounding, which coloring cuts.
    assert torch.allclose(a, b, atol=0 if size == 16 else 1e-5, rtol=0)


def test_color_equals_torchvision() -> None:
    pixels, factors = noise(3, 16), torch.tensor([[0.7, 1.0, 1.0], [1.0, 1.4, 1.0], [1.3, 0.6, 1.5]])
    views = Views(Clean(16).draw(0, 0, torch.arange(3)).box_B4, torch.zeros(3, dtype=torch.bool), 0, factors)
    seen = render(pixels, views, 16, NONE, ONE)
    for b, (brightness, contrast, saturation) in enumerate(factors.tolist()):
        expected = vision.adjust_brightness(pixels[b].permute(2, 0, 1).float() / 255, brightness)
        expected = vision.adjust_saturation(vision.adjust_contrast(expected, contrast), saturation)
        # torchvision rounds the weight of red to .2989.
        assert torch.allclose(seen[b], expected, atol=3e-4, rtol=0)


def test_the_clean_view_is_the_image() -> None:
    pixels = noise(2, 8)
    seen = render(pixels, Clean(8).draw(9, 9, torch.arange(2)), 8, NONE, ONE)
    assert torch.equal((seen * 255).round().to(torch.uint8).permute(0, 2, 3, 1), pixels)
