"""Framing of pictures, compared with torchvision and with timm's preprocessing for evaluation."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from timm.data import create_transform
from torchvision import transforms

from richkd.data.framing import Framing, frame

sides = st.integers(1, 90)


def noise(height: int, width: int) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


@settings(max_examples=60, deadline=None)
@given(sides, sides, st.integers(4, 48))
def test_the_plain_framing_is_torchvisions_resize_and_center_crop(width: int, height: int, size: int) -> None:
    image = noise(height, width)
    reference = transforms.Compose(
        [transforms.Resize(size, transforms.InterpolationMode.BICUBIC), transforms.CenterCrop(size)]
    )
    assert np.array_equal(np.asarray(frame(image, Framing(size))), np.asarray(reference(image)))


@settings(max_examples=60, deadline=None)
@given(
    st.integers(20, 90),
    st.integers(20, 90),
    st.integers(8, 48),
    st.sampled_from([1.0, 0.95, 0.875, 0.5]),
    st.sampled_from(["bilinear", "bicubic"]),
    st.booleans(),
)
def test_any_framing_is_timms_preprocessing(
    width: int, height: int, size: int, crop_pct: float, interpolation: str, squash: bool
) -> None:
    image = noise(height, width)
    reference = create_transform(
        (3, size, size),
        crop_pct=crop_pct,
        interpolation=interpolation,
        crop_mode="squash" if squash else "center",
        use_prefetcher=True,
    )
    framed = np.asarray(frame(image, Framing(size, crop_pct, interpolation, squash)))
    assert np.array_equal(framed.transpose(2, 0, 1), np.asarray(reference(image)))


def test_an_image_of_that_size_is_returned_unchanged() -> None:
    image = noise(16, 16)
    assert frame(image, Framing(16)) is image
    assert frame(image, Framing(16, crop_pct=0.875)) is not image


def test_the_center_of_a_panorama_is_what_it_was() -> None:
    """Ends are cut off before resizing; the center square is that of the whole image, up to rounding."""
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (2, 4000, 3), dtype=np.uint8)
    for image in (Image.fromarray(pixels), Image.fromarray(pixels.transpose(1, 0, 2).copy())):
        framed = np.asarray(frame(image, Framing(16))).astype(int)
        wide = image.width > image.height
        middle = image.resize((32000, 16) if wide else (16, 32000), Image.Resampling.BICUBIC)
        box = (15992, 0, 16008, 16) if wide else (0, 15992, 16, 16008)
        assert np.abs(framed - np.asarray(middle.crop(box)).astype(int)).max() <= 1


@pytest.mark.parametrize("framing", [Framing(224), Framing(224, 0.875), Framing(224, squash=True)])
def test_a_line_of_pixels_becomes_a_square(framing: Framing) -> None:
    assert frame(Image.new("RGB", (20_000, 1)), framing).size == (224, 224)
    assert frame(Image.new("RGB", (1, 20_000)), framing).size == (224, 224)


def test_messages_name_what_differs_from_the_plain_framing() -> None:
    assert str(Framing(64)) == "64 px"
    assert str(Framing(224, 0.875)) == "224 px (of 256, bicubic)"
    assert str(Framing(384, 1.0, "bilinear", squash=True)) == "384 px (squashed, bilinear)"
