"""Cost: counts that can be worked out by hand, and times that are times."""

from __future__ import annotations

import torch

from richkd.config import ModelConfig
from richkd.evaluate.cost import BATCHES, cost_of, flops
from richkd.models.build import Network, build_network


def network() -> Network:
    return build_network(ModelConfig(name="cifar_resnet8", size=16), 10, role="student")


def test_counts_of_a_small_network() -> None:
    found = cost_of(network(), torch.device("cpu"))
    assert found.parameters == sum(p.numel() for p in network().model.parameters())
    # Weights and batch statistics in four bytes each, and a head of names.
    stored = sum(t.numel() * t.element_size() for t in network().model.state_dict().values())
    assert stored / 1e6 < found.megabytes < stored / 1e6 + 0.02
    assert set(found.milliseconds) == set(BATCHES)
    assert 0 < found.milliseconds[1] < found.milliseconds[64]
    assert found.to_dict()["device"] == "cpu"


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
