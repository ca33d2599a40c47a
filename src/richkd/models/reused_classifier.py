"""A network with a projector and the classifier of another network, for timm's registry.

It is the student of SimKD: the layers of a network up to its last map, a projector to the width of the
teacher, and the teacher's classifier. Its name in timm is ``reused_classifier``. The arguments say which
network it contains, so ``timm.create_model("local-dir:FOLDER", pretrained=True)`` builds it again after
``import richkd.models``.

Source: Chen, Mei, Zhang, Wang, Feng and Chen, "Knowledge distillation with the reused teacher classifier",
CVPR 2022, section 3 and figure 3.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import timm
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import Tensor, nn

ARCHITECTURE = "reused_classifier"
# The first two layers of a projector have 1/FACTOR of the teacher's channels.
FACTOR = 2

default_cfgs = generate_default_cfgs(
    {ARCHITECTURE: {"url": "", "classifier": "fc", "first_conv": None, "input_size": (3, 32, 32)}}
)


class ReusedClassifier(nn.Module):
    """Backbone, projector, mean over positions, and linear classifier.

    Args:
        backbone: timm's name of the network.
        backbone_args: arguments of its constructor.
        width: features of the classifier.
        signed: whether features may be negative; else the projector ends with a ReLU.
        num_classes: number of outputs.
        in_chans: channels of images.

    Example:
        >>> import torch
        >>> model = ReusedClassifier("cifar_resnet8", width=32, num_classes=3)
        >>> tuple(model(torch.zeros(2, 3, 16, 16)).shape), model.num_features
        ((2, 3), 32)
    """

    def __init__(
        self,
        backbone: str = "cifar_resnet8",
        backbone_args: Mapping[str, Any] | None = None,
        *,
        width: int = 64,
        signed: bool = False,
        num_classes: int = 100,
        in_chans: int = 3,
    ) -> None:
        super().__init__()
        args = dict(backbone_args or {})
        self.backbone: Any = timm.create_model(backbone, num_classes=0, in_chans=in_chans, **args)
        if hasattr(self.backbone, "prune_intermediate_layers"):
            # Layers behind the last map are not used.
            self.backbone.prune_intermediate_layers(1, prune_norm=True, prune_head=True)
        self.num_features = self.head_hidden_size = width
        self.num_classes = num_classes
        self.projector = projector(_channels(self.backbone), width, signed=signed)
        self.fc = nn.Linear(width, num_classes)

    def get_classifier(self) -> nn.Module:
        """The linear classifier."""
        return self.fc

    def forward_intermediates(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """The projected map, and the maps of the backbone's stages with the projected one as the last."""
        maps = list(self.backbone.forward_intermediates(x, intermediates_only=True))
        projected: Tensor = self.projector(maps[-1])
        return projected, [*maps, projected]

    def forward_features(self, x: Tensor) -> Tensor:
        """The projected map (B × width × H × W) for images (B × 3 × H × W)."""
        return self.forward_intermediates(x)[0]

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """The logits (B × C) for a projected map, or with ``pre_logits`` its mean over positions."""
        pooled = x.mean(dim=(2, 3))
        return pooled if pre_logits else cast(Tensor, self.fc(pooled))

    def forward(self, x: Tensor) -> Tensor:
        """The logits (B × C) for images (B × 3 × H × W)."""
        return self.forward_head(self.forward_features(x))


def projector(inputs: int, width: int, *, signed: bool) -> nn.Sequential:
    """1×1, 3×3 and 1×1 convolutions, each with batch normalization and ReLU.

    Args:
        inputs: channels of the student's map.
        width: channels of the teacher's map.
        signed: whether the teacher has negative features, so that the last ReLU is left out.

    Example:
        >>> [layer.out_channels for layer in projector(16, 64, signed=False)[::3]]
        [32, 32, 64]
    """
    middle = max(1, width // FACTOR)
    layers: list[nn.Module] = []
    for before, after, kernel in ((inputs, middle, 1), (middle, middle, 3), (middle, width, 1)):
        layers += [nn.Conv2d(before, after, kernel, padding=kernel // 2, bias=False)]
        layers += [nn.BatchNorm2d(after), nn.ReLU(inplace=True)]
    return nn.Sequential(*(layers[:-1] if signed else layers))


def _channels(backbone: Any) -> int:
    return int(backbone.feature_info[-1]["num_chs"])


@register_model  # type: ignore[untyped-decorator]
def reused_classifier(pretrained: bool = False, **kwargs: Any) -> nn.Module:
    """Build ``reused_classifier``; takes the keyword arguments of :class:`ReusedClassifier`.

    Example:
        >>> reused_classifier(backbone="cifar_resnet8", width=32, num_classes=3).get_classifier()
        Linear(in_features=32, out_features=3, bias=True)
    """
    return cast(nn.Module, build_model_with_cfg(ReusedClassifier, ARCHITECTURE, pretrained, **kwargs))
