"""Policies of timm: equal to timm's own transforms, one view at all sizes, without global random numbers."""

from __future__ import annotations

import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFilter, ImageOps
from timm.data.transforms_factory import transforms_imagenet_train
from torch import Tensor
from torch.nn import functional

from richkd.core.errors import ConfigError
from richkd.core.seeds import mix_seed
from richkd.data.auto_augment import _POLICIES, FILL, auto_augment, check_policy

PLAIN = ("rand-m9-mstd0.5-inc1", "rand-m7-n3-mstd101-tweights", "augmix-m3-w3", "augmix-m5-d2-b1-mstd1")
AUTO = ("original-mstd0.5", "originalr", "v0", "v0r")
BLURRED = ("3a", "rand-t3a-n1-p1", "rand-m9-t3aw-mstd0.5")
seeds = st.integers(0, 2**63 - 1)


def picture(size: int, seed: int = 3) -> Tensor:
    """A picture without detail, the same at every size that divides 448."""
    small = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    large = Image.fromarray(small).resize((448, 448), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(large.resize((size, size), Image.Resampling.BOX)))


def halved(pixels_SS3: Tensor) -> Tensor:
    pixels_13SS = pixels_SS3.permute(2, 0, 1)[None].float()
    return functional.avg_pool2d(pixels_13SS, 2)[0].permute(1, 2, 0)


@pytest.fixture
def restored_policies(monkeypatch: pytest.MonkeyPatch) -> None:
    """Policies that this test changes are forgotten afterwards."""
    monkeypatch.setattr(_POLICIES, "transforms", {})


@pytest.fixture
def pillow_keeps_no_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    """timm's transform works with a Pillow that can keep no bits, as older versions can."""
    posterize = ImageOps.posterize

    def with_none(image: Image.Image, bits: int) -> Image.Image:
        return posterize(image, bits) if bits > 0 else Image.new("RGB", image.size)

    monkeypatch.setattr(ImageOps, "posterize", with_none)


@pytest.fixture
def global_state() -> Iterator[None]:
    """The state of the global generators is restored after a test that seeds them."""
    states = random.getstate(), np.random.get_state()  # noqa: NPY002
    yield
    random.setstate(states[0])
    np.random.set_state(states[1])  # noqa: NPY002


def timms(pixels_SS3: Tensor, policy: str, seed: int) -> Tensor:
    """The policy in timm's training transforms, with global generators of the same seed."""
    size = len(pixels_SS3)
    _, transform, _ = transforms_imagenet_train(size, auto_augment=policy, color_jitter=None, separate=True)
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002
    return torch.from_numpy(np.array(transform(Image.fromarray(pixels_SS3.numpy()))))


@pytest.mark.usefixtures("pillow_keeps_no_bits", "global_state")
@pytest.mark.parametrize(
    ("policy", "size"),
    [(policy, 64) for policy in PLAIN + AUTO] + [(policy, 224) for policy in (*BLURRED, PLAIN[0])],
)
def test_a_policy_is_timms_with_the_same_seed(policy: str, size: int) -> None:
    pixels_SS3 = picture(size)
    noise_SS3 = torch.randint(256, (size, size, 3), dtype=torch.uint8)
    changed = 0
    for seed in (mix_seed(number) for number in range(60)):
        for crop_SS3 in (pixels_SS3, noise_SS3):
            ours = auto_augment(crop_SS3, policy, seed)
            assert torch.equal(ours, timms(crop_SS3, policy, seed))
            changed += not torch.equal(ours, crop_SS3)
    assert changed > 30


@pytest.mark.usefixtures("restored_policies")
@pytest.mark.parametrize("policy", PLAIN + AUTO + BLURRED)
def test_crops_of_a_view_get_the_same_operations_with_the_same_magnitudes(
    policy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    applied: list[tuple[Any, ...]] = []

    def recorded(name: str) -> Any:
        def apply(image: Image.Image, *magnitudes: float, resample: Any, fillcolor: Any) -> Image.Image:
            applied.append((name, resample, fillcolor, *magnitudes))
            return image

        return apply

    operations = {name: recorded(name) for name in _POLICIES.timm.NAME_TO_OP}
    monkeypatch.setattr(_POLICIES.timm, "NAME_TO_OP", operations)
    names = set()
    for seed in range(40):
        by_size = []
        for size in (32, 64):
            applied.clear()
            auto_augment(picture(size), policy, seed)
            by_size.append(list(applied))
        small, large = by_size
        names |= {name for name, *_ in large}
        assert [operation[:3] for operation in small] == [operation[:3] for operation in large]
        for (name, _, fill, *magnitudes), (*_, magnitude) in zip(small, large, strict=True):
            assert fill == FILL
            # A radius in pixels is proportional to the size.
            share = 0.5 if name.startswith("GaussianBlur") else 1
            assert magnitudes in ([], [pytest.approx(share * magnitude)] if magnitudes else [])
    assert len(names) > 1


@pytest.mark.parametrize("policy", PLAIN + AUTO + BLURRED)
def test_crops_of_a_view_look_the_same_at_two_sizes(policy: str) -> None:
    small, large, same, other = picture(56), picture(112), [], []
    for seed in range(60):
        shrunk = halved(auto_augment(large, policy, seed))
        same.append(float((shrunk - auto_augment(small, policy, seed)).abs().mean()))
        other.append(float((shrunk - auto_augment(small, policy, seed + 100)).abs().mean()))
    # Operations that depend on the histogram, and hard edges, differ a little at another size.
    assert np.median(same) < 3
    assert max(same) < 20
    assert np.median(other) > 3 * np.median(same) + 4


@pytest.mark.usefixtures("restored_policies")
@pytest.mark.parametrize("operation", ["Rotate", "ShearX", "ShearY", "TranslateXRel", "TranslateYRel"])
def test_geometric_operations_move_all_sizes_alike(operation: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_POLICIES.timm, "rand_augment_choices", lambda *args, **kwargs: [operation])
    small, large, policy = picture(56), picture(112), "rand-m9-mstd2-p1-n1-tone"
    for seed in range(30):
        moved = auto_augment(small, policy, seed).float()
        assert (moved - small.float()).abs().mean() > 5
        # Only pixels at the edge of the filled area differ.
        difference = (halved(auto_augment(large, policy, seed)) - moved).abs().amax(dim=2)
        assert difference.mean() < 2.5
        assert difference.median() < 2


def test_a_blur_has_the_radius_of_timm_at_224_pixels_and_is_relative_to_the_size(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    radii = []
    blur = ImageFilter.GaussianBlur

    def recorded(radius: float) -> ImageFilter.GaussianBlur:
        radii.append(radius)
        return blur(radius)

    monkeypatch.setattr(_POLICIES.timm.ImageFilter, "GaussianBlur", recorded)
    for size in (224, 448, 56):
        for seed in range(20):
            auto_augment(picture(size), "rand-t3a-n1-p1", seed)
    large, larger, small = np.array(radii).reshape(3, -1)
    assert len(large) > 3
    # Magnitude 10 is a radius of 2 pixels.
    assert large == pytest.approx(2)
    assert larger == pytest.approx(4)
    assert small == pytest.approx(0.5)


def test_posterization_that_keeps_no_bits_gives_black() -> None:
    crops = [auto_augment(picture(16), "rand-m10-inc1-n1-p1", seed) for seed in range(100)]
    assert any(not crop_SS3.any() for crop_SS3 in crops)


# Random numbers


@settings(max_examples=40, deadline=None)
@given(seeds, st.sampled_from(PLAIN + AUTO + BLURRED), st.integers(0, 1000))
def test_global_random_numbers_have_no_influence_and_are_not_used(seed: int, policy: str, other: int) -> None:
    crop_SS3 = picture(16)
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    expected = auto_augment(crop_SS3, policy, seed)
    assert random.getstate() == states[0]
    assert str(np.random.get_state()) == str(states[1])  # noqa: NPY002
    assert torch.equal(torch.get_rng_state(), states[2])
    auto_augment(crop_SS3, policy, other)
    assert torch.equal(auto_augment(crop_SS3, policy, seed), expected)


@pytest.mark.parametrize("policy", [PLAIN[0], PLAIN[2], "original"])
def test_threads_do_not_disturb_each_other(policy: str) -> None:
    crop_SS3 = picture(32)
    numbers = [number % 50 for number in range(400)]
    expected = [auto_augment(crop_SS3, policy, seed) for seed in range(50)]
    with ThreadPoolExecutor(4) as pool:
        crops = list(pool.map(lambda seed: auto_augment(crop_SS3, policy, seed), numbers))
    for number, crop in zip(numbers, crops, strict=True):
        assert torch.equal(crop, expected[number])


# Names


@pytest.mark.parametrize("policy", PLAIN + AUTO + BLURRED)
def test_policies_of_timm_are_accepted(policy: str) -> None:
    check_policy(policy)


@pytest.mark.parametrize(
    ("policy", "problem"),
    [
        ("autoaugment", "Unknown AA policy autoaugment"),
        ("", "Unknown AA policy "),
        ("none", "Unknown AA policy none"),
        ("v0-m9", "Unknown AutoAugment config section"),
        ("rand-m9-x3", "Unknown RandAugment config section"),
        ("augmix-x3", "Unknown AugMix config section"),
        ("rand-m9.5", "invalid literal for int() with base 10: '9.5'"),
        ("rand-mstd0.5x", "could not convert string to float: '0.5x'"),
        ("random-m9", "timm cannot read it (AssertionError)"),
        ("rand-n16-tweights", "Cannot take a larger sample than population"),
        ("augmix-a0", "alpha <= 0"),
        # timm passes over these.
        ("rand-m9-inc", "timm ignores 'inc'"),
        ("rand-m9-tweight", "timm ignores 'tweight'"),
        ("original-mstd", "timm ignores 'mstd'"),
    ],
)
def test_other_policies_are_refused_with_timms_message(policy: str, problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check_policy(policy)
    assert caught.value.rule == "Setting 'augment.auto_augment' must be a policy of timm"
    assert str(caught.value.got).startswith(f"{policy!r}: ")
    assert problem in str(caught.value.got)
