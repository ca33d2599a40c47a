"""A classifier on the mean of the last map is found where it gives the network's own logits."""

from __future__ import annotations

import pytest
import torch

from richkd.config.schema import ModelConfig
from richkd.models.build import Network, build_network
from richkd.models.map_classifier import map_classifier


def network(name: str, size: int = 32) -> Network:
    return build_network(ModelConfig(name=name, size=size), 5, role="teacher")


@pytest.mark.parametrize("name", ["cifar_resnet8", "cifar_resnet8x4", "cifar_vgg8", "resnet10t"])
def test_pooled_stages_have_one(name: str) -> None:
    built = network(name).eval()
    before = {key: value.clone() for key, value in built.state_dict().items()}
    classifier = map_classifier(built)
    assert classifier is not None
    pixels = torch.rand(3, 3, 32, 32)
    with torch.no_grad():
        output = built(pixels, maps=True)
        assert torch.allclose(classifier(output.maps[-1].mean((2, 3))), output.logits_BC, atol=1e-5)
    assert all(torch.equal(before[key], value) for key, value in built.state_dict().items())
    assert not built.training


@pytest.mark.parametrize("name", ["cifar_wrn_16_2", "cifar_mobilenetv2_half", "mobilenetv3_small_050"])
def test_maps_that_change_before_the_pooling_have_none(name: str) -> None:
    assert map_classifier(network(name)) is None


def test_a_transformer_has_none() -> None:
    assert map_classifier(network("test_vit", 160)) is None
