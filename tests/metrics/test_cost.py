"""Cost: counts that can be worked out by hand, and times that are times."""

from __future__ import annotations

import pytest
import torch

from richkd.config.schema import ModelConfig
from richkd.metrics.cost import BATCHES, _LiveBytes, cost_of, flops, peak_bytes
from richkd.models.build import Network, build_network


def network() -> Network:
    return build_network(ModelConfig(name="cifar_resnet8", size=16), 10, role="student")


def test_counts_of_a_small_network() -> None:
    result = cost_of(network(), torch.device("cpu"))
    assert result.parameters == sum(p.numel() for p in network().model.parameters())
    # Weights and batch statistics in four bytes each, and a head of names.
    stored = sum(t.numel() * t.element_size() for t in network().model.state_dict().values())
    assert stored / 1e6 < result.megabytes < stored / 1e6 + 0.02
    assert set(result.milliseconds) == set(BATCHES)
    assert 0 < result.milliseconds[1] < result.milliseconds[64]
    assert result.to_dict()["device"] == "cpu"


def test_flops_count_every_multiply_and_add_of_convolutions() -> None:
    counted = 0

    def hook(module: torch.nn.Conv2d, _: object, output: torch.Tensor) -> None:
        nonlocal counted
        counted += 2 * output[0].numel() * module.weight[0].numel()

    made = network()
    for module in made.modules():
        if isinstance(module, torch.nn.Conv2d):
            module.register_forward_hook(hook)  # type: ignore[arg-type]
    total = flops(made)
    head = made.model.get_classifier()
    assert total == counted + 2 * head.in_features * head.out_features
    assert made.training


def test_flops_of_attention_are_counted() -> None:
    name, width, depth = "vit_tiny_patch16_224", 192, 12
    made = build_network(ModelConfig(name=name, size=64), 10, role="student")
    tokens = (64 // 16) ** 2 + 1
    linear = 0

    def hook(module: torch.nn.Module, _: object, output: torch.Tensor) -> None:
        nonlocal linear
        weight = module.weight
        assert isinstance(weight, torch.Tensor)
        linear += 2 * output[0].numel() * weight[0].numel()

    for module in made.modules():
        if isinstance(module, torch.nn.Conv2d | torch.nn.Linear):
            module.register_forward_hook(hook)
    # Two products of each head: tokens × tokens × its width.
    assert flops(made) == linear + depth * 2 * (2 * tokens**2 * width)


def test_peak_memory_is_what_lives_at_once() -> None:
    with _LiveBytes() as meter:
        a = torch.zeros(100)  # 400 bytes
        b = a + 1  # 800
        b.mul_(2)
        row = b.view(10, 10)[0]
        del a  # 400
        c = torch.cat([b, b])  # 1200
    assert (meter.peak, meter.alive) == (1200, 1200)
    del b, c, row
    assert meter.alive == 0


def test_a_wider_batch_needs_more_at_work() -> None:
    made, device = network(), torch.device("cpu")
    state = sum(t.nbytes for t in (*made.parameters(), *made.buffers()))
    one, many = (peak_bytes(made.eval(), batch, device) for batch in (1, 64))
    # The widest map of ResNet-8 on 16 pixels has 16 channels, and a block holds its input, too.
    assert one - state >= 2 * 16 * 16 * 16 * 4
    assert many - state == pytest.approx(64 * (one - state), rel=0.01)
