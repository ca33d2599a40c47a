"""Each corruption against a slow implementation for single images, and properties that all of them share."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from richkd.core.errors import ConfigError
from richkd.evaluate.corruptions.corrupt import GROUPS, TEST, corrupt
from richkd.evaluate.corruptions.noise import quantile_table
from richkd.evaluate.corruptions.severity import SEVERITIES, constants
from tests.evaluate.corruptions.comparing import different, drawn_for
from tests.reference import corruptions as slow

SIZE = 32
NAMES = (*TEST, *GROUPS["validation"])
FIXED = ("defocus_blur", "zoom_blur", "brightness", "contrast", "pixelate", "gaussian_blur", "saturate")
NOISES = ("gaussian_noise", "shot_noise", "impulse_noise", "speckle_noise")


def images_of(count: int, size: int = SIZE, seed: int = 0) -> torch.Tensor:
    """Smooth images with a black and a gray corner."""
    rng = np.random.default_rng(seed)
    coarse = torch.from_numpy(rng.random((count, 3, 5, 5)))
    smooth = torch.nn.functional.interpolate(coarse, (size, size), mode="bicubic").clamp(0, 1)
    made = (smooth * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous()
    made[:, :6, :6] = 0
    made[:, -6:, -6:] = 128
    return made


def one_by_one(name: str, severity: int, images: torch.Tensor) -> np.ndarray:
    """The slow implementation on each image, with the same random numbers."""
    strength = constants(name, severity, images.shape[1])
    out = []
    for number, image in enumerate(images.numpy() / 255):
        drawn = drawn_for(name, severity, images, number)
        out.append(getattr(slow, name)(image, np.random.default_rng(number), *strength, **drawn))
    return np.stack(out).clip(0, 1) * 255


@pytest.mark.parametrize("severity", [1, 3, 5])
@pytest.mark.parametrize("name", [n for n in NAMES if n not in NOISES and n != "jpeg_compression"])
def test_a_batch_is_corrupted_as_its_images_one_by_one(name, severity):
    images = images_of(3)
    ours = corrupt(images, name, severity).numpy().astype(float)
    theirs = one_by_one(name, severity, images)
    # A drop at the threshold may be kept in float32 and cut off in float64.
    assert different(ours, theirs) < 1e-3


@pytest.mark.parametrize(
    "name",
    ["defocus_blur", "zoom_blur", "motion_blur", "pixelate", "gaussian_blur", "fog", "elastic_transform"],
)
def test_at_64_pixels_too(name):
    images = images_of(2, size=64)
    assert different(corrupt(images, name, 4).numpy(), one_by_one(name, 4, images)) < 1e-3


@pytest.mark.parametrize("severity", SEVERITIES)
@pytest.mark.parametrize("size", [32, 50, 224])
def test_jpeg_is_that_of_libjpeg(severity, size):
    images = images_of(2, size=size)
    ours = corrupt(images, "jpeg_compression", severity).numpy().astype(float)
    away = abs(ours - one_by_one("jpeg_compression", severity, images))
    # libjpeg may round a coefficient the other way, which changes a block by a few steps.
    assert away.mean() < 0.8
    assert (away > 4).mean() < 0.025


@pytest.mark.parametrize("severity", [1, 5])
@pytest.mark.parametrize("name", NOISES)
def test_noise_has_the_distribution_it_should(name, severity):
    value, count = 100, 40
    images = torch.full((count, SIZE, SIZE, 3), value, dtype=torch.uint8)
    images[:, 0, 0, 0] = torch.arange(count)  # so that no two images are the same
    ours = corrupt(images, name, severity).numpy()[:, 1:].astype(float)
    (c,) = constants(name, severity, SIZE)
    rng = np.random.default_rng(0)
    theirs = getattr(slow, name)(np.full(ours.shape, value / 255), rng, c)
    theirs = slow.truncated(theirs)
    grid = np.arange(256)
    ours_cdf, theirs_cdf = (
        np.searchsorted(np.sort(x.ravel()), grid, "right") / x.size for x in (ours, theirs)
    )
    # The Kolmogorov-Smirnov bound of two samples at p = 1e-4.
    assert abs(ours_cdf - theirs_cdf).max() < 2.23 * (2 / ours.size) ** 0.5


@settings(max_examples=25, deadline=None)
@given(st.sampled_from(NAMES), st.integers(1, 5), st.integers(0, 3), st.permutations(range(4)))
def test_an_image_is_corrupted_alike_in_any_batch(name, severity, seed, order):
    images = images_of(4)
    together = corrupt(images, name, severity, seed)
    assert torch.equal(corrupt(images[order], name, severity, seed), together[order])
    alone = corrupt(images[2:3], name, severity, seed)[0].int()
    # Matrix products of another shape may differ in the last bit.
    assert (alone - together[2].int()).abs().max() <= 1


@pytest.mark.parametrize("name", [n for n in NAMES if n not in (*FIXED, "jpeg_compression")])
def test_what_is_random_depends_on_seed_severity_and_image(name):
    images = images_of(2)
    first = corrupt(images, name, 3)
    assert torch.equal(first, corrupt(images, name, 3))
    assert not torch.equal(first, corrupt(images, name, 3, seed=1))
    same = torch.cat([images[:1], images[:1].clone()])
    same[1, 10, 10, 0] ^= 1
    changed = corrupt(same, name, 3).int()
    assert (changed[0] - changed[1]).abs().max() > 1


@pytest.mark.parametrize("name", NAMES)
def test_severity_takes_images_further_away(name):
    images = images_of(12)
    away = [float((corrupt(images, name, s).float() - images).square().mean()) for s in (1, 5)]
    # Glass, elastic and saturation change in kind between severities.
    if name not in ("glass_blur", "elastic_transform", "saturate", "spatter"):
        assert away[1] > away[0]
    assert min(away) > 0


@pytest.mark.parametrize("size", [1, 2, 3, 17])
@pytest.mark.parametrize("name", NAMES)
def test_tiny_and_odd_images_are_corrupted_too(name, size):
    images = torch.randint(0, 256, (2, size, size, 3), dtype=torch.uint8)
    assert corrupt(images, name, 5).shape == images.shape


def test_no_such_corruption_or_severity():
    with pytest.raises(ConfigError, match="gaussian_noise"):
        corrupt(images_of(1), "gausian_noise", 1)
    for severity in (0, 6):
        with pytest.raises(ConfigError, match="1, 2, 3, 4 or 5"):
            corrupt(images_of(1), "fog", severity)


def test_an_unknown_kind_of_noise_is_an_error():
    with pytest.raises(ConfigError, match="Did you mean 'gaussian'"):
        quantile_table("gausian", 0.1)


def test_constants_move_with_the_logarithm_of_the_size():
    assert constants("gaussian_noise", 3, 32) == (0.08,)
    assert constants("gaussian_noise", 3, 16) == (0.08,)
    assert constants("gaussian_noise", 3, 224) == pytest.approx((0.18,))
    assert constants("gaussian_noise", 3, 500) == pytest.approx((0.18,))
    middle = round((32 * 224) ** 0.5)
    assert constants("gaussian_noise", 3, middle) == pytest.approx((0.13,), rel=1e-2)
