"""What is found out about the ends of stages, for networks whose layers are known."""

from __future__ import annotations

import timm
import torch
from torch import nn

from richkd.config.schema import ModelConfig
from richkd.models.build import Network, build_network
from richkd.models.stage_ends import classifier_of, find_stage_ends

RGB = (0.5, 0.5, 0.5)


def network_of(name: str, size: int) -> Network:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = build_network(ModelConfig(name=name, size=size), 3, role="teacher").eval()
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                nn.init.normal_(module.weight)
                nn.init.normal_(module.bias)
    return network


def test_stages_behind_norm_and_relu_have_its_numbers() -> None:
    network = network_of("cifar_vgg13", 16)
    ends = find_stage_ends(network)
    for number, norm in enumerate(ends.norms, start=1):
        last = list(network.model.get_submodule(f"layer{number}"))[-2]
        assert isinstance(last, nn.BatchNorm2d)
        assert norm is not None
        assert torch.equal(norm[0], last.weight)
        assert torch.equal(norm[1], last.bias)


def test_sums_of_residual_blocks_have_none() -> None:
    for name, size in (("cifar_resnet8", 16), ("cifar_wrn_16_2", 16)):
        assert set(find_stage_ends(network_of(name, size)).norms) == {None}
    # The first map of timm's ResNets is that of the stem.
    first, *others = find_stage_ends(network_of("resnet10t", 64)).norms
    assert first is not None
    assert set(others) == {None}


def test_what_the_classifier_reads() -> None:
    properties = {
        name: find_stage_ends(network_of(name, size))[1:]
        for name, size in (("cifar_resnet8", 16), ("cifar_wrn_16_2", 16), ("test_vit", 160))
    }
    # Averaged, signed, linear. Maps of a wide ResNet are before its last batch norm; a ViT has a class token.
    assert properties == {
        "cifar_resnet8": (True, False, True),
        "cifar_wrn_16_2": (False, False, True),
        "test_vit": (False, True, True),
    }


def test_a_classifier_of_several_layers_is_not_linear() -> None:
    model = timm.create_model("cifar_resnet8", num_classes=3).eval()
    model.fc = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 3))
    network = Network(model, "cifar_resnet8", size=16, mean=RGB, std=RGB)
    assert not find_stage_ends(network).linear
    assert classifier_of(network) is model.fc


def test_the_network_stays_as_it_is() -> None:
    network = network_of("cifar_vgg8", 16)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    find_stage_ends(network)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert not any(module._forward_hooks for module in network.modules())
