"""ResNets, wide ResNets and VGG networks of the CIFAR-100 distillation benchmark, for timm's registry.

Their names in timm have the prefix ``cifar_``. Each network is a :class:`CifarNet`: a stem, stages with one
feature map each, closing layers, and a linear classifier ``fc``. Millions of parameters for 100 classes, as
published:

    =================  =========    =================  =========    =================  =========
    cifar_resnet8       0.08        cifar_resnet110     1.736564    cifar_wrn_40_1      0.569780
    cifar_resnet14      0.18        cifar_resnet8x4     1.233540    cifar_wrn_40_2      2.255156
    cifar_resnet20      0.278324    cifar_resnet32x4    7.433860    cifar_wrn_28_4      5.87
    cifar_resnet32      0.472756    cifar_resnet50     23.705252    cifar_vgg8          3.965028
    cifar_resnet44      0.667188    cifar_wrn_16_2      0.703284    cifar_vgg13         9.462180
    cifar_resnet56      0.861620
    =================  =========    =================  =========    =================  =========

The mobile networks are in ``cifar_mobile.py``.

Sources: He et al. 2016, "Deep residual learning for image recognition" (section 4.2, here with projection
shortcuts); Zagoruyko & Komodakis 2016, "Wide residual networks"; Simonyan & Zisserman 2015, "Very deep
convolutional networks" (here with batch normalization and a single linear layer). The depths, widths and
numbers of parameters are those of Tian et al. 2020, "Contrastive representation distillation".
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from richkd.models.cifar_base import CifarNet, Entry, Stage, register

Block = Callable[[int, int, int], nn.Module]


def projection(inputs: int, outputs: int, stride: int) -> nn.Module | None:
    """The projection shortcut of a block: a 1x1 convolution with batch norm, or None for the identity.

    The projection is needed if the number of channels or the resolution changes.

    Example:
        >>> projection(16, 16, stride=1) is None, projection(16, 32, stride=2) is None
        (True, False)
    """
    if stride == 1 and inputs == outputs:
        return None
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))


class BasicBlock(nn.Module):
    """Residual block with two 3x3 convolutions (He et al. 2016, figure 5, left).

    Example:
        >>> import torch
        >>> tuple(BasicBlock(16, 32, stride=2)(torch.zeros(1, 16, 8, 8)).shape)
        (1, 32, 4, 4)
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample = projection(inputs, outputs, stride)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        out = F.relu(self.bn1(self.conv1(x)), inplace=True)
        return F.relu(self.bn2(self.conv2(out)) + shortcut, inplace=True)


class Bottleneck(nn.Module):
    """Residual block with 1x1, 3x3 and 1x1 convolutions (He et al. 2016, figure 5, right).

    The first two convolutions have a quarter of the output channels.

    Example:
        >>> import torch
        >>> tuple(Bottleneck(64, 128, stride=2)(torch.zeros(1, 64, 8, 8)).shape)
        (1, 128, 4, 4)
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        middle = outputs // 4
        self.conv1 = nn.Conv2d(inputs, middle, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(middle)
        self.conv2 = nn.Conv2d(middle, middle, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(middle)
        self.conv3 = nn.Conv2d(middle, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.downsample = projection(inputs, outputs, stride)

    def forward(self, x: Tensor) -> Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        out = F.relu(self.bn1(self.conv1(x)), inplace=True)
        out = F.relu(self.bn2(self.conv2(out)), inplace=True)
        return F.relu(self.bn3(self.conv3(out)) + shortcut, inplace=True)


class WideBlock(nn.Module):
    """Pre-activation residual block with two 3x3 convolutions (Zagoruyko & Komodakis 2016).

    Batch norm and ReLU come before each convolution. If the width changes, the input of the 1x1 projection is
    the activated input.

    Example:
        >>> import torch
        >>> tuple(WideBlock(16, 32, stride=2)(torch.zeros(1, 16, 8, 8)).shape)
        (1, 32, 4, 4)
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.downsample = nn.Conv2d(inputs, outputs, 1, stride, bias=False) if inputs != outputs else None

    def forward(self, x: Tensor) -> Tensor:
        active = F.relu(self.bn1(x))
        shortcut = x if self.downsample is None else self.downsample(active)
        out: Tensor = self.conv2(F.relu(self.bn2(self.conv1(active)), inplace=True))
        return out + shortcut


def residual_stages(block: Block, width: int, outputs: Sequence[int], blocks: Sequence[int]) -> list[Stage]:
    """Build the stages of a residual network.

    The first block of each stage except the first stage halves the resolution.

    Args:
        block: the block class.
        width: channels of the stem.
        outputs: output channels of each stage.
        blocks: number of blocks of each stage.

    Example:
        >>> stages = residual_stages(BasicBlock, 16, (16, 32, 64), (1, 1, 1))
        >>> [(stage.channels, stage.reduction) for stage in stages]
        [(16, 1), (32, 2), (64, 4)]
    """
    stages: list[Stage] = []
    for i, (channels, count) in enumerate(zip(outputs, blocks, strict=True)):
        first = block(width, channels, 1 if i == 0 else 2)
        rest = [block(channels, channels, 1) for _ in range(count - 1)]
        stages.append(Stage(nn.Sequential(first, *rest), channels, 2**i))
        width = channels
    return stages


def resnet(
    block: Block, width: int, outputs: Sequence[int], blocks: Sequence[int], *, in_chans: int = 3, **head: Any
) -> CifarNet:
    """A residual network with a 3x3 stem of ``width`` channels, without max-pooling.

    The arguments are those of `residual_stages`; ``head`` has further arguments of :class:`CifarNet`.

    Example:
        >>> network = resnet(BasicBlock, 16, (16, 32, 64), (1, 1, 1), num_classes=10)
        >>> network.num_features, network.num_classes
        (64, 10)
    """
    stem = {
        "conv1": nn.Conv2d(in_chans, width, 3, 1, 1, bias=False),
        "bn1": nn.BatchNorm2d(width),
        "relu": nn.ReLU(inplace=True),
    }
    stages = residual_stages(block, width, outputs, blocks)
    return CifarNet(stem, stages, in_chans=in_chans, **head)


def plain_resnet(depth: int, width: int = 16, factor: int = 1, **options: Any) -> CifarNet:
    """ResNet for CIFAR (He et al. 2016, section 4.2): 3 stages of (depth - 2) / 6 basic blocks.

    Args:
        depth: number of layers; (depth - 2) must be a multiple of 6.
        width: channels of the stem.
        factor: the stages have 16, 32 and 64 × ``factor`` channels.
        options: further arguments of :class:`CifarNet`.

    Example:
        >>> sum(parameter.numel() for parameter in plain_resnet(20).parameters())
        278324
    """
    assert (depth - 2) % 6 == 0
    return resnet(BasicBlock, width, [factor * w for w in (16, 32, 64)], [(depth - 2) // 6] * 3, **options)


def wide_resnet(depth: int, factor: int, *, in_chans: int = 3, **head: Any) -> CifarNet:
    """Wide ResNet WRN-depth-factor: 3 stages of (depth - 4) / 6 `WideBlock` blocks.

    Args:
        depth: number of layers; (depth - 4) must be a multiple of 6.
        factor: the stages have 16, 32 and 64 × ``factor`` channels.
        in_chans: channels of the images.
        head: further arguments of :class:`CifarNet`.

    Example:
        >>> sum(parameter.numel() for parameter in wide_resnet(16, 2).parameters())
        703284
    """
    assert (depth - 4) % 6 == 0
    stem = {"conv1": nn.Conv2d(in_chans, 16, 3, 1, 1, bias=False)}
    outputs = [factor * w for w in (16, 32, 64)]
    stages = residual_stages(WideBlock, 16, outputs, [(depth - 4) // 6] * 3)
    closing = {"bn1": nn.BatchNorm2d(outputs[-1]), "relu": nn.ReLU(inplace=True)}
    return CifarNet(stem, stages, closing, in_chans=in_chans, **head)


def vgg(convolutions: int, *, in_chans: int = 3, **head: Any) -> CifarNet:
    """VGG: five stages of ``convolutions`` 3x3 layers, with max-pooling before stages 2, 3 and 4.

    Example:
        >>> network = vgg(1)
        >>> sum(parameter.numel() for parameter in network.parameters()), network.num_features
        (3965028, 512)
    """
    stages: list[Stage] = []
    before = in_chans
    for i, (channels, reduction) in enumerate(zip((64, 128, 256, 512, 512), (1, 2, 4, 8, 8), strict=True)):
        layers: list[nn.Module] = []
        for _ in range(convolutions):
            layers += [nn.Conv2d(before, channels, 3, 1, 1), nn.BatchNorm2d(channels), nn.ReLU(inplace=True)]
            before = channels
        named = OrderedDict((str(position), layer) for position, layer in enumerate(layers))
        if i in (1, 2, 3):
            # The pooling layer gets a name instead of a number, so that the other layers keep the numbers of
            # the published checkpoints.
            named["pool"] = nn.MaxPool2d(2)
            named.move_to_end("pool", last=False)
        stages.append(Stage(nn.Sequential(named), channels, reduction))
    return CifarNet({}, stages, in_chans=in_chans, **head)


NETWORKS = {
    **{
        f"cifar_resnet{depth}": Entry(partial(plain_resnet, depth), stages=3)
        for depth in (8, 14, 20, 32, 44, 56, 110)
    },
    **{f"cifar_resnet{depth}x4": Entry(partial(plain_resnet, depth, 32, 4), stages=3) for depth in (8, 32)},
    "cifar_resnet50": Entry(partial(resnet, Bottleneck, 64, (256, 512, 1024, 2048), (3, 4, 6, 3)), stages=4),
    **{
        f"cifar_wrn_{depth}_{factor}": Entry(partial(wide_resnet, depth, factor), stages=3)
        for depth, factor in ((16, 2), (40, 1), (40, 2), (28, 4))
    },
    "cifar_vgg8": Entry(partial(vgg, 1), stages=5, first_conv="layer1.0"),
    "cifar_vgg13": Entry(partial(vgg, 2), stages=5, first_conv="layer1.0"),
}

register(NETWORKS, __name__)
