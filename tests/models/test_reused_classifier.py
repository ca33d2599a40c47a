"""A network with a projector: its layers, and that timm builds and loads it."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
from timm.models import save_for_hf
from torch import nn

from richkd.models.reused_classifier import ARCHITECTURE, projector


@pytest.mark.parametrize(
    ("name", "args", "size"),
    [
        ("cifar_resnet8", {}, 16),
        ("cifar_wrn_16_2", {}, 16),
        ("mobilenetv3_small_050", {}, 64),
        ("resnet10t", {}, 64),
        ("test_vit", {"img_size": 64}, 64),
    ],
)
def test_timm_builds_and_loads_it(name: str, args: dict[str, int], size: int, tmp_path: Path) -> None:
    settings = {"backbone": name, "backbone_args": args, "width": 10, "signed": True}
    model = timm.create_model(ARCHITECTURE, num_classes=3, **settings).eval()
    save_for_hf(model, tmp_path, model_args=settings, safe_serialization=True)
    again = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    pixels = torch.rand(2, 3, size, size)
    with torch.no_grad():
        assert torch.equal(model(pixels), again(pixels))
        map_BFHW, maps = again.forward_intermediates(pixels)
        assert maps[-1] is map_BFHW
        feats_BF = again.forward_head(map_BFHW, pre_logits=True)
        assert torch.equal(again.get_classifier()(feats_BF), model(pixels))
    assert tuple(feats_BF.shape) == (2, 10)
    # The classifier of the backbone is not a part of it.
    assert "backbone.fc.weight" not in model.state_dict()
    assert "backbone.head.weight" not in model.state_dict()


def test_layers_are_the_published_ones() -> None:
    layers = list(projector(8, 12, signed=False))
    assert [type(layer) for layer in layers] == [nn.Conv2d, nn.BatchNorm2d, nn.ReLU] * 3
    shapes = [tuple(layer.weight.shape) for layer in layers if isinstance(layer, nn.Conv2d)]
    assert shapes == [(6, 8, 1, 1), (6, 6, 3, 3), (12, 6, 1, 1)]
    assert not isinstance(list(projector(8, 12, signed=True))[-1], nn.ReLU)
