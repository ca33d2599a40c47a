"""Every corruption at every severity is as strong as the published one, for images of 32 and of 224 pixels.

`CHANGES` was measured once with a version that has the published constants and uses OpenCV, scikit-image,
SciPy and Pillow where the published scripts do, and the published photographs of frost (those of the package
imagecorruptions 1.1.2): the mean of |corrupted − original| in bytes over the images of `pictures`. Standard
errors over the random numbers are up to 2 %.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from richkd.evaluate.corruptions.corrupt import GROUPS, TEST, corrupt
from richkd.evaluate.corruptions.severity import SEVERITIES, constants
from tests.evaluate.corruptions.comparing import different, drawn_for
from tests.reference import corruptions as slow
from tests.reference.published import CONSTANTS, SIZES, strength

NAMES = (*TEST, *GROUPS["validation"])
COUNTS = {32: 64, 224: 6}
TOLERANCE = 0.1

# By name: severities 1 to 5 for images of 32 pixels, then for 224 pixels.
CHANGES = {
    "gaussian_noise": ((8.01, 12.0, 15.9, 17.8, 19.8), (15.7, 23.3, 34.1, 46.9, 62.4)),
    "shot_noise": ((6.19, 8.72, 13.7, 15.8, 19.2), (17.0, 25.9, 36.5, 53.7, 66.6)),
    "impulse_noise": ((1.28, 2.55, 3.82, 6.35, 8.94), (3.86, 7.62, 11.5, 21.7, 34.5)),
    "defocus_blur": ((3.52, 8.67, 12.7, 18.1, 21.5), (21.3, 23.2, 25.8, 27.4, 28.7)),
    "glass_blur": ((22.7, 22.8, 22.2, 32.1, 30.2), (22.4, 22.2, 27.7, 26.7, 27.7)),
    "motion_blur": ((14.2, 19.3, 22.5, 22.6, 25.0), (21.3, 25.1, 28.1, 30.5, 31.8)),
    "zoom_blur": ((16.1, 19.1, 21.7, 24.1, 26.0), (25.3, 27.6, 27.8, 29.2, 29.7)),
    "snow": ((11.1, 24.9, 26.5, 39.2, 54.4), (40.0, 65.6, 64.9, 78.1, 92.0)),
    "frost": ((31.0, 46.1, 49.4, 44.1, 41.5), (58.9, 67.7, 72.9, 68.9, 71.8)),
    "fog": ((9.59, 19.3, 24.8, 29.7, 36.3), (36.3, 39.9, 43.4, 44.4, 46.5)),
    "brightness": ((9.38, 19.1, 28.5, 37.3, 52.6), (17.9, 34.7, 48.7, 59.4, 66.2)),
    "contrast": ((10.2, 20.3, 24.4, 28.4, 34.5), (24.2, 28.3, 32.3, 36.3, 38.3)),
    "elastic_transform": ((35.7, 33.5, 30.7, 29.1, 25.7), (45.7, 49.9, 33.1, 33.1, 33.9)),
    "pixelate": ((3.93, 7.49, 9.12, 13.5, 18.0), (14.7, 16.5, 19.0, 21.3, 22.5)),
    "jpeg_compression": ((12.2, 15.0, 15.9, 16.8, 17.9), (16.3, 17.5, 18.2, 20.0, 21.8)),
    "speckle_noise": ((6.05, 10.0, 11.9, 15.8, 19.6), (14.2, 18.7, 31.6, 39.5, 49.7)),
    "gaussian_blur": ((3.39, 12.5, 15.3, 17.3, 20.3), (16.0, 21.6, 24.3, 26.1, 28.4)),
    "spatter": ((1.05, 2.83, 6.91, 3.23, 5.31), (0.829, 4.46, 7.6, 9.32, 15.0)),
    "saturate": ((18.3, 23.6, 12.4, 28.4, 38.8), (23.2, 29.9, 24.4, 41.7, 44.3)),
}
# How often all images are corrupted, with another seed each time: frost depends on the photograph that is
# drawn, and spatter at severity 1 on a few drops.
REPEATS = {"frost": {32: 8, 224: 8}, "spatter": {32: 4, 224: 2}, "fog": {32: 2, 224: 4}}
FEW_DROPS = {("spatter", 1, 224): 40}


def pictures(size: int) -> torch.Tensor:
    """Colored images with the spectrum of photographs: amplitudes fall with 1 / frequency."""
    rng = np.random.default_rng(0)
    frequency = np.hypot(*np.meshgrid(np.fft.fftfreq(size), np.fft.fftfreq(size), indexing="ij"))
    frequency[0, 0] = np.inf
    made = []
    for _ in range(COUNTS[size]):
        maps = np.fft.ifft2(np.fft.fft2(rng.standard_normal((4, size, size))) / frequency).real
        maps /= maps.std(axis=(1, 2), keepdims=True)
        # A map of brightness, and one for each color.
        picture = 0.2 * (0.9 * maps[:1] + 0.45 * maps[1:]).transpose(1, 2, 0)
        made.append(picture + 0.5 + 0.1 * rng.standard_normal(3))
    return torch.from_numpy(np.rint(np.stack(made).clip(0, 1) * 255).astype(np.uint8))


@pytest.fixture(scope="module")
def images() -> dict[int, torch.Tensor]:
    return {size: pictures(size) for size in SIZES}


def change(name: str, severity: int, pixels: torch.Tensor) -> float:
    size = pixels.shape[1]
    seeds = range(FEW_DROPS.get((name, severity, size), REPEATS.get(name, {}).get(size, 1)))
    away = [(corrupt(pixels, name, severity, seed).float() - pixels).abs().mean() for seed in seeds]
    return float(torch.stack(away).mean())


def test_every_corruption_has_published_constants_and_changes() -> None:
    assert set(NAMES) == set(CONSTANTS) == set(CHANGES)
    assert all(len(row) == len(SEVERITIES) for rows in CHANGES.values() for row in rows)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", NAMES)
def test_constants_are_the_published_ones(name: str, size: int) -> None:
    for severity in SEVERITIES:
        assert constants(name, severity, size) == pytest.approx(strength(name, severity, size))


@pytest.mark.slow
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", NAMES)
def test_the_mean_change_is_the_published_one(name: str, size: int, images: dict[int, torch.Tensor]) -> None:
    ours = [change(name, severity, images[size]) for severity in SEVERITIES]
    assert ours == pytest.approx(CHANGES[name][SIZES.index(size)], rel=TOLERANCE)


@pytest.mark.parametrize(
    ("name", "severity", "size"),
    [
        ("elastic_transform", 1, 224),
        ("elastic_transform", 3, 224),
        ("zoom_blur", 1, 32),
        ("zoom_blur", 1, 224),
        ("defocus_blur", 5, 224),
        ("glass_blur", 1, 224),
        ("motion_blur", 5, 224),
        ("snow", 4, 224),
        ("spatter", 2, 224),
        ("spatter", 5, 224),
        ("gaussian_blur", 1, 32),
        ("pixelate", 2, 224),
    ],
)
def test_images_equal_those_of_the_slow_published_version(
    name: str, severity: int, size: int, images: dict[int, torch.Tensor]
) -> None:
    pixels = images[size][:1]
    drawn = drawn_for(name, severity, pixels, 0)
    picture = pixels[0].numpy() / 255
    theirs = getattr(slow, name)(picture, np.random.default_rng(0), *strength(name, severity, size), **drawn)
    ours = corrupt(pixels, name, severity)[0].numpy().astype(float)
    assert different(ours, theirs.clip(0, 1) * 255) < 2e-3
