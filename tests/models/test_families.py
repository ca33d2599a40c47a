"""Networks of every family are the timm models inside them: built, trained for a step, saved, loaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from richkd.config.schema import ModelConfig
from richkd.core.types import Output
from richkd.export.student import load_student, save_student
from richkd.models.build import Network, build_network
from tests.models.families import SMALLEST

CLASSES = ("ant", "bee", "cow")
# Small networks of different families: name and resolution. Several have a head that is not a single layer.
FEW = {
    "cifar_resnet8": 32,
    "test_resnet": 64,
    "test_convnext": 64,
    "test_efficientnet": 64,
    "test_byobnet": 64,
    "test_nfnet": 64,
    "test_mambaout": 64,
    "test_vit": 64,
    "lcnet_035": 64,
    "mobilenetv4_conv_small_050": 64,
    "starnet_s050": 64,
    "dla46x_c": 64,
    "resnetv2_18": 64,
    "efficientvit_m0": 64,
    "repvit_m0_9": 64,
    "levit_128s": 64,
    "deit_tiny_distilled_patch16_224": 32,
    "efficientvim_m1": 64,
}
# Larger networks do not fit into the memory of a small machine together with their gradients.
LARGEST = 130e6


def seeded(build: Any) -> tuple[Any, Tensor]:
    """What a function returns after a fixed seed, and the state of the random numbers afterwards."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build(), torch.get_rng_state()


def pixels(size: int) -> Tensor:
    return torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(1))


def assert_same(first: nn.Module, second: nn.Module) -> None:
    state, other = first.state_dict(), second.state_dict()
    assert state.keys() == other.keys()
    assert [key for key in state if not torch.equal(state[key], other[key])] == []


def step(model: nn.Module, size: int) -> Tensor:
    """One step of gradient descent in training mode; returns the logits."""

    def logits_of() -> Tensor:
        output = model.train()(pixels(size))
        return output.logits_BC if isinstance(output, Output) else output

    logits, _ = seeded(logits_of)
    F.cross_entropy(logits, torch.tensor([0, 2])).backward()
    torch.optim.SGD(model.parameters(), lr=0.01).step()
    return logits.detach()


def check(name: str, size: int, folder: Path, **args: Any) -> None:
    config = ModelConfig(name=name, size=size, args=args)
    network, after = seeded(lambda: build_network(config, 3, role="student", new_classifier=True))
    sized = timm.models.resolve_model_input_args(name, {"img_size": size}, **args).get("img_size")
    more = {} if sized is None else {"img_size": sized}
    model, expected = seeded(lambda: timm.create_model(name, num_classes=3, **args, **more))
    # Looking at the model changed nothing.
    assert torch.equal(after, expected)
    assert_same(network.model, model)
    assert [m.training for m in network.model.modules()] == [m.training for m in model.modules()]
    assert torch.equal(step(network, size), step(model, size))
    assert_same(network.model, model)
    check_saved(network, model, folder)


def check_saved(network: Network, model: nn.Module, folder: Path) -> None:
    save_student(folder, network, CLASSES, 1.0, {})
    student = load_student(folder).network
    again = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    x = pixels(network.size)
    # PyTorch may choose another kernel for frozen weights, with other last bits.
    for part in (network, model, again):
        part.requires_grad_(False)
    with torch.no_grad():
        expected = model.eval()(x)
        output = network.eval()(x)
        assert torch.equal(output.logits_BC, expected)
        assert output.feats_BF.shape == (2, network.feature_width)
        assert torch.equal(student(x).logits_BC, expected)
        assert torch.equal(student(x).feats_BF, output.feats_BF)
        assert torch.equal(again(x), expected)
    assert (student.size, student.classes) == (network.size, 3)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "size"), FEW.items())
def test_a_network_is_the_model_inside_it(name: str, size: int, tmp_path: Path) -> None:
    check(name, size, tmp_path)


@pytest.mark.parametrize("name", ["test_vit", "dla46x_c", "lcnet_035"])
def test_dropout_is_that_of_the_model(name: str, tmp_path: Path) -> None:
    check(name, 64, tmp_path, drop_rate=0.5)


@pytest.mark.slow
@pytest.mark.parametrize("family", timm.list_modules())
def test_every_family(family: str, tmp_path: Path) -> None:
    name = SMALLEST.get(family) or timm.list_models(module=family)[0]
    cfg = timm.get_pretrained_cfg(name)
    if cfg is None:
        pytest.skip(f"timm says nothing about {name}")
    size = cfg.input_size[-1] if cfg.fixed_input_size else min(cfg.input_size[-1], 256)
    with torch.device("meta"):
        parameters = sum(p.numel() for p in timm.create_model(name, num_classes=3).parameters())
    if parameters > LARGEST:
        pytest.skip(f"{name} has {parameters:,} parameters")
    check(name, size, tmp_path)
