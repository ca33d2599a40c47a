"""Rendered views, compared with loops, PIL and torchvision."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional
from torchvision.transforms import functional as vision

from richkd.data.augmentations import Clean, CropFlip
from richkd.data.views import Views, render, resampling_matrix
from tests.reference import views as slow

MEAN, STD = (0.5070, 0.4865, 0.4409), (0.2673, 0.2564, 0.2761)
NONE, ONE = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)


def noise(images: int, size: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(256, (images, size, size, 3), dtype=torch.uint8, generator=generator)


def smooth(images: int, size: int) -> Tensor:
    """Images of low frequencies, which look the same at any sufficient resolution."""
    at = (torch.arange(size) + 0.5) / size
    y, x = torch.meshgrid(at, at, indexing="ij")
    waves = [
        torch.stack([torch.cos(3 * x + i), torch.sin(2 * y - i), torch.cos(x + 2 * y)]) for i in range(images)
    ]
    return ((torch.stack(waves) + 1) * 127.5).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def box_views(boxes: list[list[float]], flips: list[bool] | None = None, border: int = 0) -> Views:
    return Views(torch.tensor(boxes), torch.tensor(flips or [False] * len(boxes)), border)


def test_crop_flip_equals_the_loop_bit_for_bit() -> None:
    pixels = noise(24, 16)
    views = CropFlip(16, 3).draw(1, 2, torch.arange(24))
    fast = render(pixels, views, 16, MEAN, STD)
    assert fast.dtype == torch.float32
    for b in range(24):
        top, left = (int(value) for value in views.box_B4[b, :2])
        rendered = slow.crop_flip(pixels[b].numpy(), top, left, 16, 3, bool(views.flip_B[b]))
        assert (fast[b].numpy() == slow.normalize(rendered, MEAN, STD)).all()


def test_pixels_outside_the_source_are_black() -> None:
    white = torch.full((1, 8, 8, 3), 255, dtype=torch.uint8)
    shifted = render(white, box_views([[-2, 3, 8, 8]], border=3), 8, NONE, ONE)[0]
    expected = torch.zeros(8, 8)
    expected[2:, :5] = 1
    assert torch.equal(shifted, expected.expand(3, 8, 8))
    black = (0 - torch.tensor(MEAN)) / torch.tensor(STD)
    assert torch.equal(render(white, box_views([[-2, 3, 8, 8]], border=3), 8, MEAN, STD)[0, :, 0, 7], black)


def resampled(pixels: Tensor, views: Views, size: int) -> Tensor:
    """The pixels of the resampling path, in 0..1."""
    rows = resampling_matrix(views.box_B4[:, 0], views.box_B4[:, 2], pixels.shape[1], size, views.border)
    cols = resampling_matrix(views.box_B4[:, 1], views.box_B4[:, 3], pixels.shape[2], size, views.border)
    rendered = torch.einsum("boh,bhwc,bpw->bcop", rows, pixels.float() / 255, cols)
    return torch.where(views.flip_B[:, None, None, None], rendered.flip(3), rendered)


def test_resampling_of_whole_pixels_is_the_plain_crop() -> None:
    pixels, views = noise(40, 16), CropFlip(16, 4).draw(0, 0, torch.arange(40))
    plain = render(pixels, views, 16, NONE, ONE)
    assert torch.allclose(resampled(pixels, views, 16), plain, atol=1e-6, rtol=0)
    # The same box, changed slightly, uses the resampling path of render.
    moved = Views(views.box_B4 + 1e-6 * torch.tensor([0, 0, 1, 1]) * 16, views.flip_B, views.border)
    assert not torch.equal(moved.box_B4, views.box_B4)
    assert torch.allclose(render(pixels, moved, 16, NONE, ONE), plain, atol=1e-4, rtol=0)


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
def test_whole_images_are_resized_as_in_torch_and_pil(source: int, size: int) -> None:
    pixels = noise(2, source)
    rendered = render(pixels, Clean(source).draw(0, 0, torch.arange(2)), size, NONE, ONE)
    planes = pixels.permute(0, 3, 1, 2)
    torchs = functional.interpolate(
        planes.double() / 255, (size, size), mode="bilinear", antialias=True, align_corners=False
    )
    # Positions near 48 are float32 numbers 4e-6 apart, along two axes, times differences up to 1.
    assert torch.allclose(rendered.double(), torchs, atol=2e-5, rtol=0)
    for b in range(2):
        resized = Image.fromarray(pixels[b].numpy()).resize((size, size), Image.Resampling.BILINEAR)
        # PIL rounds to 8 bits after each of its two passes, half a level each.
        assert np.abs(rendered[b].permute(1, 2, 0).numpy() * 255 - np.asarray(resized)).max() < 1.01


def test_one_view_shows_the_same_at_two_resolutions() -> None:
    pixels = smooth(12, 48)
    policy = CropFlip(48, 6)
    views = policy.draw(0, 0, torch.arange(12))
    small, large = (render(pixels, views, size, NONE, ONE) for size in (24, 96))
    shrunk = functional.avg_pool2d(large, 4)
    # Compare away from the edge of the black border, whose blur depends on the resolution.
    visible = functional.avg_pool2d((shrunk.sum(1, keepdim=True) > 0.01).float(), 5, 1, 2) == 1
    assert visible.float().mean() > 0.5
    difference = ((small - shrunk).abs() * visible).amax()
    assert difference < 0.02
    other = render(pixels, policy.draw(0, 1, torch.arange(12)), 24, NONE, ONE)
    assert ((other - shrunk).abs() * visible).amax() > 0.2


@pytest.mark.parametrize("size", [16, 24])
def test_mirroring_mirrors_the_rendered_view(size: int) -> None:
    pixels = noise(1, 16)
    boxes = [[1.0, -2.0, 16.0, 16.0]]
    plain, mirrored = (
        render(pixels, box_views(boxes, [flip], border=2), size, NONE, ONE) for flip in (False, True)
    )
    assert torch.equal(mirrored, plain.flip(3))
    assert not torch.equal(mirrored, plain)


@pytest.mark.parametrize("size", [16, 24])
def test_results_have_channels_last_memory_format(size: int) -> None:
    rendered = render(noise(3, 16), CropFlip(16, 2).draw(0, 0, torch.arange(3)), size, MEAN, STD)
    assert rendered.shape == (3, 3, size, size)
    assert rendered.is_contiguous(memory_format=torch.channels_last)


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
    rendered = render(pixels, views, 16, NONE, ONE)
    for b, (brightness, contrast, saturation) in enumerate(factors.tolist()):
        expected = vision.adjust_brightness(pixels[b].permute(2, 0, 1).float() / 255, brightness)
        expected = vision.adjust_saturation(vision.adjust_contrast(expected, contrast), saturation)
        # torchvision rounds the weight of red to .2989.
        assert torch.allclose(rendered[b], expected, atol=3e-4, rtol=0)


def test_the_clean_view_is_the_image() -> None:
    pixels = noise(2, 8)
    rendered = render(pixels, Clean(8).draw(9, 9, torch.arange(2)), 8, NONE, ONE)
    assert torch.equal((rendered * 255).round().to(torch.uint8).permute(0, 2, 3, 1), pixels)
