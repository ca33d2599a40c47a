"""Depthwise convolutions of maps that are smaller than their kernel, with a fast gradient on a CPU.

At 64 px, the last maps of a small network have 2 × 2 pixels, and kernels have up to 5 × 5. oneDNN has a fast
gradient of the weights of a depthwise convolution only if the map is at least as large as the kernel;
otherwise it computes tiny matrix products, channel by channel. Zeros around the map make it large enough and
do not change the result.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class PaddedConv2d(nn.Conv2d):
    """A depthwise `torch.nn.Conv2d` that pads small maps before it convolves them, in training on a CPU.

    Output, gradients, parameters and state are those of `torch.nn.Conv2d`, to rounding.

    Example:
        >>> layer = nn.Conv2d(4, 4, 5, padding=2, groups=4)
        >>> same = PaddedConv2d(4, 4, 5, padding=2, groups=4)
        >>> same.load_state_dict(layer.state_dict())
        <All keys matched successfully>
        >>> x = torch.randn(2, 4, 2, 2)
        >>> torch.allclose(layer(x), same(x), atol=1e-6)
        True
    """

    def forward(self, input: Tensor) -> Tensor:
        """The convolution of maps (B, channels, height, width)."""
        if not self._needs_zeros(input):
            return super().forward(input)
        down, right = (int(n) for n in self.padding)
        padded = F.pad(input, (right, right, down, down))
        return F.conv2d(padded, self.weight, self.bias, self.stride, 0, self.dilation, self.groups)

    def _needs_zeros(self, map_BFHW: Tensor) -> bool:
        learns = self.training and torch.is_grad_enabled() and self.weight.requires_grad
        small = any(size < kernel for size, kernel in zip(map_BFHW.shape[2:], self.kernel_size, strict=True))
        return learns and small and map_BFHW.device.type == "cpu"


def pad_small_maps(model: nn.Module) -> None:
    """Let the depthwise convolutions of a network be `PaddedConv2d`, in place.

    A step of EfficientNet-Lite0 at 64 px takes three quarters of the time (docs/performance.md).

    Example:
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 5, padding=2, groups=8))
        >>> pad_small_maps(model)
        >>> [type(layer).__name__ for layer in model]
        ['Conv2d', 'PaddedConv2d']
    """
    for layer in model.modules():
        if type(layer) is nn.Conv2d and _is_depthwise(layer):
            # Another class instead of another layer: hooks and references to the layer stay as they are.
            layer.__class__ = PaddedConv2d


def _is_depthwise(layer: nn.Conv2d) -> bool:
    zeros = layer.padding_mode == "zeros" and not isinstance(layer.padding, str)
    return zeros and layer.groups == layer.in_channels > 1
