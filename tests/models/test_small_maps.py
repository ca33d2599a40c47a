"""Padded depthwise convolutions: the same numbers as `torch.nn.Conv2d`, from a faster gradient."""

from __future__ import annotations

import platform

import pytest
import timm
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from richkd.models.small_maps import PaddedConv2d, pad_small_maps


def gradients(layer: nn.Module, x: Tensor) -> list[Tensor]:
    """Output of a layer, and gradients of its input and parameters."""
    x = x.clone().requires_grad_()
    y = layer(x)
    weights = torch.linspace(-1, 1, y.numel(), dtype=y.dtype).reshape(y.shape)
    return [y, *torch.autograd.grad((y * weights).sum(), [x, *layer.parameters()])]


@given(
    kernel=st.tuples(st.sampled_from([1, 3, 5, 7]), st.sampled_from([1, 3, 5, 7])),
    size=st.tuples(st.integers(1, 6), st.integers(1, 6)),
    stride=st.integers(1, 2),
    dilation=st.integers(1, 2),
    bias=st.booleans(),
    multiplier=st.integers(1, 2),
)
def test_output_and_gradients_are_those_of_pytorch(
    kernel: tuple[int, int], size: tuple[int, int], stride: int, dilation: int, bias: bool, multiplier: int
) -> None:
    padding = (dilation * (kernel[0] // 2), dilation * (kernel[1] // 2))
    torch.manual_seed(0)
    plain = nn.Conv2d(
        4, 4 * multiplier, kernel, stride, padding, dilation, groups=4, bias=bias, dtype=torch.float64
    )
    model = nn.Sequential(plain)
    x = torch.randn(3, 4, *size, dtype=torch.float64)
    expected = gradients(model, x)
    pad_small_maps(model)
    assert type(model[0]) is PaddedConv2d
    for got, want in zip(gradients(model, x), expected, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ["mobilenetv3_small_050", "tf_efficientnet_lite0", "convnext_atto"])
def test_a_network_keeps_its_state_and_its_loss(name: str) -> None:
    model = timm.create_model(name, num_classes=5).train()
    names, x = list(model.state_dict()), torch.randn(4, 3, 64, 64)

    def loss() -> Tensor:
        torch.manual_seed(0)
        return model(x).logsumexp(1).mean()

    before = loss()
    pad_small_maps(model)
    assert any(type(layer) is PaddedConv2d for layer in model.modules())
    assert list(model.state_dict()) == names
    torch.testing.assert_close(loss(), before, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(4, 4, 3, padding=1, groups=2),
        nn.Conv2d(4, 4, 3, padding=1, groups=4, padding_mode="reflect"),
        nn.Conv2d(4, 4, 3, padding="same", groups=4),
        nn.Conv2d(1, 1, 3, padding=1),
    ],
)
def test_other_convolutions_stay_as_they_are(layer: nn.Conv2d) -> None:
    pad_small_maps(layer)
    assert type(layer) is nn.Conv2d


def padded_in(layer: nn.Module, size: int) -> bool:
    """Whether a layer pads a map before it convolves it."""
    graph = torch.fx.experimental.proxy_tensor.make_fx(layer)(torch.randn(1, 4, size, size)).graph
    return any("pad" in str(node.target) for node in graph.nodes)


def test_only_training_pads_and_only_small_maps() -> None:
    layer = nn.Conv2d(4, 4, 5, padding=2, groups=4)
    pad_small_maps(layer)
    assert padded_in(layer.train(), size=4)
    assert not padded_in(layer.train(), size=5)
    assert not padded_in(layer.eval(), size=4)
    layer.train().weight.requires_grad_(False)
    assert not padded_in(layer, size=4)


@pytest.mark.skipif(
    not torch.backends.mkldnn.is_available() or platform.machine() not in ("x86_64", "AMD64"),
    reason="needs oneDNN on an x86 processor",
)
def test_the_slow_gradient_is_avoided(capfd: pytest.CaptureFixture[str]) -> None:
    """The reason of this module: matrix products of oneDNN."""

    def kinds(layer: nn.Module) -> list[str]:
        x = torch.randn(8, 64, 4, 4).contiguous(memory_format=torch.channels_last)
        with torch.backends.mkldnn.verbose(torch.backends.mkldnn.VERBOSE_ON):
            layer(x).sum().backward()
        lines = [line for line in capfd.readouterr().out.splitlines() if ",exec," in line]
        return [line for line in lines if "backward_weights" in line]

    layer = nn.Conv2d(64, 64, 5, padding=2, groups=64).to(memory_format=torch.channels_last)
    if "gemm" not in "".join(kinds(layer)):
        pytest.skip("oneDNN has a fast gradient for small maps on this processor")
    pad_small_maps(layer)
    fast = kinds(layer)
    assert fast
    assert "gemm" not in "".join(fast)
