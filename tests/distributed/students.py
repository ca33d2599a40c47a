"""A student whose every layer draws random numbers, by all ways that networks use."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from timm.layers import DropPath
from torch import Tensor, nn

from tests.fixtures import PlainNet


class NoisyNet(PlainNet):
    """Dropout, dropout of channels, stochastic depth, noise, and attention with dropout."""

    def __init__(self, num_classes: int, norm: bool = True) -> None:
        super().__init__(num_classes)
        self.path = DropPath(0.3)
        self.norm = nn.BatchNorm2d(self.num_features) if norm else nn.Identity()

    def forward_features(self, pixels_B3HW: Tensor) -> Tensor:
        map_BFHW = self.norm(self.stem(pixels_B3HW))
        if not self.training:
            return F.gelu(map_BFHW)
        map_BFHW = map_BFHW + self.path(F.dropout(map_BFHW, 0.2))
        map_BFHW = F.dropout2d(map_BFHW, 0.1) + 0.1 * torch.randn_like(map_BFHW)
        heads_BFPX = map_BFHW.flatten(2).unsqueeze(-1)
        attended_BFPX = F.scaled_dot_product_attention(heads_BFPX, heads_BFPX, heads_BFPX, dropout_p=0.1)
        drawn_B1 = torch.rand(len(map_BFHW), 1, device=map_BFHW.device)
        return F.gelu(map_BFHW + attended_BFPX.view_as(map_BFHW)) * (1 + 0.1 * drawn_B1[:, :, None, None])
