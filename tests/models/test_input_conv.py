"""First convolutions of checkpoints with other channels: adapted as timm does it, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from richkd.models.input_conv import to_rgb_input
from richkd.models.weights import load_weights
from tests.fixtures import PlainNet, refusal


@given(channels=st.integers(1, 6), seed=st.integers(0, 99))
def test_gray_pixels_give_the_same_result(channels: int, seed: int) -> None:
    torch.manual_seed(seed)
    source, target = nn.Conv2d(channels, 4, 3), nn.Conv2d(3, 4, 3)
    # Equal weights for every channel, so that what channels are left out does not matter.
    source.weight.data = source.weight.data[:, :1].repeat(1, channels, 1, 1)
    state, changed = to_rgb_input(dict(source.state_dict()), target)
    assert changed == (() if channels == 3 else ("weight",))
    target.load_state_dict(state)
    gray = torch.rand(1, 1, 8, 8)
    expected = source(gray.expand(1, channels, 8, 8))
    assert torch.allclose(target(gray.expand(1, 3, 8, 8)), expected, atol=1e-5)


@pytest.mark.parametrize(
    "name", ["test_resnet", "test_vit", "test_efficientnet", "test_convnext", "test_byobnet"]
)
@pytest.mark.parametrize("channels", [1, 4])
def test_a_start_from_other_channels_is_what_timm_makes(name: str, channels: int, tmp_path: Path) -> None:
    torch.manual_seed(0)
    source = timm.create_model(name, num_classes=3, in_chans=channels)
    target = timm.create_model(name, num_classes=3)
    torch.save(source.state_dict(), tmp_path / "weights.pth")
    loaded = load_weights(target, tmp_path / "weights.pth", role="student", new_classifier=True)
    overlay = {"file": str(tmp_path / "weights.pth"), "num_classes": 3, "custom_load": False}
    overlay |= {"input_size": (channels, *source.pretrained_cfg["input_size"][1:])}
    expected = timm.create_model(name, True, num_classes=3, in_chans=3, pretrained_cfg_overlay=overlay)
    assert len(loaded.adapted) == 1
    assert f"1 adapted to RGB ({loaded.adapted[0]})" in str(loaded)
    for key, tensor in expected.state_dict().items():
        assert torch.equal(target.state_dict()[key], tensor), key


def test_a_teacher_is_not_adapted(tmp_path: Path) -> None:
    source = timm.create_model("test_resnet", num_classes=3, in_chans=1)
    torch.save(source.state_dict(), tmp_path / "weights.pth")
    target = timm.create_model("test_resnet", num_classes=3)
    error = refusal(load_weights, target, tmp_path / "weights.pth", role="teacher")
    assert error.rule.endswith("must be of a network for RGB images")
    assert "conv1" in str(error.got)


def test_another_kernel_or_width_is_another_network() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3))
    for shape in ((4, 1, 5, 5), (5, 1, 3, 3), (4, 3)):
        state = {"0.weight": torch.zeros(shape)}
        assert to_rgb_input(state, model) == (state, ())
    # Only the first convolution sees images.
    assert to_rgb_input({"1.weight": torch.zeros(4, 1, 3, 3)}, model)[1] == ()
    stem = nn.Conv2d(12, 4, 3)
    assert to_rgb_input({"weight": torch.zeros(4, 1, 3, 3)}, stem)[1] == ()
    assert to_rgb_input({}, nn.Linear(2, 2)) == ({}, ())


def test_a_network_without_timms_traits_has_a_first_convolution(tmp_path: Path) -> None:
    source, target = PlainNet(3), PlainNet(3)
    source.stem = nn.Conv2d(1, 6, 3, 2, 1)
    torch.save(source.state_dict(), tmp_path / "weights.pth")
    loaded = load_weights(target, tmp_path / "weights.pth", role="student", new_classifier=True)
    assert loaded.adapted == ("stem.weight",)
    assert torch.allclose(target.stem.weight.sum(1), source.stem.weight[:, 0])
