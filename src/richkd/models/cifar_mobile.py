"""Mobile networks of the CIFAR-100 distillation benchmark, for timm's registry (prefix ``cifar_``).

Millions of parameters for 100 classes, as published:

    =======================  ========    ==========================================================
    cifar_mobilenetv2_half   0.812836    width 0.5, expansion 6; the stem halves the resolution
    cifar_shufflenetv1       0.949258    3 groups, stage widths 240, 480, 960; 1x1 stem
    cifar_shufflenetv2       1.355528    stage widths 116, 232, 464, closing width 1024; 1x1 stem
    =======================  ========    ==========================================================

They differ from the ImageNet networks in their stems and in these details of the benchmark's checkpoints:
MobileNetV2 uses ReLU, and its first block has an expansion layer (of factor 1); ShuffleNetV1 has a ReLU after
its depthwise convolutions; the stages of ShuffleNetV2 have 3, 7 and 3 units *after* the downsampling unit.

Sources: Sandler et al. 2018, "MobileNetV2"; Zhang et al. 2018, "ShuffleNet"; Ma et al. 2018, "ShuffleNet
V2". The widths and numbers of parameters are those of Tian et al. 2020, "Contrastive representation
distillation".
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from richkd.models.cifar_base import CifarNet, Entry, Stage, register


def pointwise(inputs: int, outputs: int, groups: int = 1) -> nn.Conv2d:
    """A 1x1 convolution without bias, optionally grouped.

    Example:
        >>> tuple(pointwise(8, 4, groups=2).weight.shape)
        (4, 4, 1, 1)
    """
    return nn.Conv2d(inputs, outputs, 1, groups=groups, bias=False)


def depthwise(channels: int, stride: int) -> nn.Conv2d:
    """A depthwise 3x3 convolution without bias, with padding 1.

    Example:
        >>> tuple(depthwise(8, stride=2)(torch.zeros(1, 8, 4, 4)).shape)
        (1, 8, 2, 2)
    """
    return nn.Conv2d(channels, channels, 3, stride, 1, groups=channels, bias=False)


def activated(convolution: nn.Conv2d) -> list[nn.Module]:
    """The convolution followed by batch norm and ReLU.

    Example:
        >>> [type(layer).__name__ for layer in activated(pointwise(8, 4))]
        ['Conv2d', 'BatchNorm2d', 'ReLU']
    """
    return [convolution, nn.BatchNorm2d(convolution.out_channels), nn.ReLU(inplace=True)]


def shuffle(x: Tensor, groups: int) -> Tensor:
    """Channel shuffle: channel c of group g moves to position c·groups + g.

    As a result, each group of the next grouped convolution reads from all groups.

    Example:
        >>> shuffle(torch.arange(6).view(1, 6, 1, 1), groups=2).flatten().tolist()
        [0, 3, 1, 4, 2, 5]
    """
    batch, channels, height, width = x.shape
    return x.view(batch, groups, channels // groups, height, width).transpose(1, 2).flatten(1, 2)


class InvertedResidual(nn.Module):
    """Inverted residual block (Sandler et al. 2018, table 1).

    A 1x1 expansion, a depthwise 3x3 convolution and a linear 1x1 projection. The block has a shortcut if the
    input and the output have the same shape.

    Example:
        >>> block = InvertedResidual(8, 8, stride=1, expansion=6)
        >>> tuple(block(torch.zeros(1, 8, 4, 4)).shape), block.has_shortcut
        ((1, 8, 4, 4), True)
    """

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = inputs * expansion
        self.conv = nn.Sequential(
            *activated(pointwise(inputs, wide)),
            *activated(depthwise(wide, stride)),
            pointwise(wide, outputs),
            nn.BatchNorm2d(outputs),
        )
        self.has_shortcut = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(x)
        return x + out if self.has_shortcut else out


def mobilenetv2(width: float, expansion: int, *, in_chans: int = 3, **head: Any) -> CifarNet:
    """MobileNetV2 with a stem of stride 2 and one stage per resolution: 16, 8, 4, 2 for images of 32 pixels.

    Args:
        width: multiplier of the channels.
        expansion: expansion factor of all blocks but the first.
        in_chans: channels of the images.
        head: further arguments of :class:`CifarNet`.

    Example:
        >>> sum(parameter.numel() for parameter in mobilenetv2(0.5, 6).parameters())
        812836
    """
    channels = int(32 * width)
    stem = {"conv1": nn.Sequential(*activated(nn.Conv2d(in_chans, channels, 3, 2, 1, bias=False)))}
    # The groups of blocks of each stage: (expansion, channels at width 1, blocks, stride of the first block).
    plan = (
        ((1, 16, 1, 1), (expansion, 24, 2, 1)),
        ((expansion, 32, 3, 2),),
        ((expansion, 64, 4, 2), (expansion, 96, 3, 1)),
        ((expansion, 160, 3, 2), (expansion, 320, 1, 1)),
    )
    stages: list[Stage] = []
    for i, groups in enumerate(plan):
        layers: list[nn.Module] = []
        for ratio, full, count, stride in groups:
            outputs = int(full * width)
            shapes = [(channels, stride)] + [(outputs, 1)] * (count - 1)
            layers.append(nn.Sequential(*(InvertedResidual(c, outputs, s, ratio) for c, s in shapes)))
            channels = outputs
        stages.append(Stage(nn.Sequential(*layers), channels, 2 ** (i + 1)))
    features = int(1280 * max(width, 1.0))
    closing = {"conv2": nn.Sequential(*activated(pointwise(channels, features)))}
    return CifarNet(stem, stages, closing, num_features=features, in_chans=in_chans, **head)


class ShuffleUnitV1(nn.Module):
    """ShuffleNetV1 unit (Zhang et al. 2018, figure 2): grouped 1x1, shuffle, depthwise 3x3, grouped 1x1.

    With stride 2 the average-pooled input is concatenated instead of added; its channels are included in
    ``outputs``.

    Args:
        inputs: input channels.
        outputs: output channels.
        stride: 1 or 2.
        groups: groups of the 1x1 convolutions.
        first: whether this is the first unit after the stem, whose first convolution is not grouped.

    Example:
        >>> unit = ShuffleUnitV1(24, 240, stride=2, groups=3, first=True)
        >>> tuple(unit(torch.zeros(1, 24, 8, 8)).shape)
        (1, 240, 4, 4)
    """

    def __init__(self, inputs: int, outputs: int, stride: int, groups: int, first: bool) -> None:
        super().__init__()
        self.stride = stride
        branch = outputs - inputs if stride == 2 else outputs
        middle = branch // 4
        # The stem has too few channels for groups (section 3.2).
        self.groups = 1 if first else groups
        self.conv1 = pointwise(inputs, middle, self.groups)
        self.bn1 = nn.BatchNorm2d(middle)
        self.conv2 = depthwise(middle, stride)
        self.bn2 = nn.BatchNorm2d(middle)
        self.conv3 = pointwise(middle, branch, groups)
        self.bn3 = nn.BatchNorm2d(branch)

    def forward(self, x: Tensor) -> Tensor:
        out = shuffle(F.relu(self.bn1(self.conv1(x)), inplace=True), self.groups)
        out = F.relu(self.bn2(self.conv2(out)), inplace=True)
        out = self.bn3(self.conv3(out))
        joined = out + x if self.stride == 1 else torch.cat([out, F.avg_pool2d(x, 3, 2, 1)], dim=1)
        return F.relu(joined, inplace=True)


class ShuffleUnitV2(nn.Module):
    """ShuffleNetV2 unit (Ma et al. 2018, figure 3c).

    Half of the channels are copied and half are filtered; then all channels are shuffled.

    Example:
        >>> tuple(ShuffleUnitV2(8)(torch.zeros(1, 8, 4, 4)).shape)
        (1, 8, 4, 4)
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        half = channels // 2
        self.conv1, self.bn1 = pointwise(half, half), nn.BatchNorm2d(half)
        self.conv2, self.bn2 = depthwise(half, 1), nn.BatchNorm2d(half)
        self.conv3, self.bn3 = pointwise(half, half), nn.BatchNorm2d(half)

    def forward(self, x: Tensor) -> Tensor:
        kept, out = x.chunk(2, dim=1)
        out = F.relu(self.bn1(self.conv1(out)), inplace=True)
        out = F.relu(self.bn3(self.conv3(self.bn2(self.conv2(out)))), inplace=True)
        return shuffle(torch.cat([kept, out], dim=1), 2)


class ShuffleDownV2(nn.Module):
    """ShuffleNetV2 downsampling unit (Ma et al. 2018, figure 3d).

    Each half of the output channels is computed from all input channels by its own branch with stride 2.

    Example:
        >>> tuple(ShuffleDownV2(8, 16)(torch.zeros(1, 8, 4, 4)).shape)
        (1, 16, 2, 2)
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        half = outputs // 2
        self.conv1, self.bn1 = depthwise(inputs, 2), nn.BatchNorm2d(inputs)
        self.conv2, self.bn2 = pointwise(inputs, half), nn.BatchNorm2d(half)
        self.conv3, self.bn3 = pointwise(inputs, half), nn.BatchNorm2d(half)
        self.conv4, self.bn4 = depthwise(half, 2), nn.BatchNorm2d(half)
        self.conv5, self.bn5 = pointwise(half, half), nn.BatchNorm2d(half)

    def forward(self, x: Tensor) -> Tensor:
        left = F.relu(self.bn2(self.conv2(self.bn1(self.conv1(x)))), inplace=True)
        right = F.relu(self.bn3(self.conv3(x)), inplace=True)
        right = F.relu(self.bn5(self.conv5(self.bn4(self.conv4(right)))), inplace=True)
        return shuffle(torch.cat([left, right], dim=1), 2)


def shuffle_stem(in_chans: int, width: int) -> dict[str, nn.Module]:
    """The stem of the ShuffleNets: a 1x1 convolution to ``width`` channels, batch norm and ReLU, by name.

    Example:
        >>> list(shuffle_stem(3, 24))
        ['conv1', 'bn1', 'relu']
    """
    conv, norm, relu = activated(pointwise(in_chans, width))
    return {"conv1": conv, "bn1": norm, "relu": relu}


def shufflenetv1(*, in_chans: int = 3, **head: Any) -> CifarNet:
    """ShuffleNetV1 with 3 groups and 3 stages of 4, 8 and 4 units; each stage halves the resolution.

    Example:
        >>> sum(parameter.numel() for parameter in shufflenetv1().parameters())
        949258
    """
    channels = 24
    stem = shuffle_stem(in_chans, channels)
    stages: list[Stage] = []
    for i, (outputs, count) in enumerate(((240, 4), (480, 8), (960, 4))):
        units = [ShuffleUnitV1(channels, outputs, 2, 3, first=i == 0)]
        units += [ShuffleUnitV1(outputs, outputs, 1, 3, first=False) for _ in range(count - 1)]
        stages.append(Stage(nn.Sequential(*units), outputs, 2 ** (i + 1)))
        channels = outputs
    return CifarNet(stem, stages, in_chans=in_chans, **head)


def shufflenetv2(
    outputs: Sequence[int] = (116, 232, 464), features: int = 1024, *, in_chans: int = 3, **head: Any
) -> CifarNet:
    """ShuffleNetV2 of width 1; each of the 3 stages halves the resolution and then has 3, 7 or 3 units.

    Args:
        outputs: channels of each stage.
        features: width of the pooled feature.
        in_chans: channels of the images.
        head: further arguments of :class:`CifarNet`.

    Example:
        >>> sum(parameter.numel() for parameter in shufflenetv2().parameters())
        1355528
    """
    channels = 24
    stem = shuffle_stem(in_chans, channels)
    stages: list[Stage] = []
    for i, (width, count) in enumerate(zip(outputs, (3, 7, 3), strict=True)):
        units = [ShuffleUnitV2(width) for _ in range(count)]
        stages.append(Stage(nn.Sequential(ShuffleDownV2(channels, width), *units), width, 2 ** (i + 1)))
        channels = width
    conv, norm, relu = activated(pointwise(channels, features))
    closing = {"conv2": conv, "bn2": norm, "relu2": relu}
    return CifarNet(stem, stages, closing, num_features=features, in_chans=in_chans, **head)


def mobilenetv2_half(**options: Any) -> CifarNet:
    """MobileNetV2 of width 0.5 with expansion 6.

    Example:
        >>> mobilenetv2_half(num_classes=10).num_classes
        10
    """
    return mobilenetv2(0.5, 6, **options)


NETWORKS = {
    "cifar_mobilenetv2_half": Entry(mobilenetv2_half, stages=4, first_conv="conv1.0"),
    "cifar_shufflenetv1": Entry(shufflenetv1, stages=3),
    "cifar_shufflenetv2": Entry(shufflenetv2, stages=3),
}

register(NETWORKS, __name__)
