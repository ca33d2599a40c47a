"""Which parts of a network are gathered together; tests/distributed/test_sharded.py has several processes."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import nn

from richkd.models.sharded import UNIT, in_step, units_of

# Architectures whose blocks are members of containers, of containers in containers, and of stages.
NAMES = (
    "resnet50",
    "vit_small_patch16_224",
    "convnext_tiny",
    "swin_tiny_patch4_window7_224",
    "eva02_tiny_patch14_224",
)


@pytest.mark.parametrize("name", NAMES)
def test_inner_units_come_first_and_have_a_forward_pass(name: str) -> None:
    units = units_of(timm.create_model(name))
    assert len(units) == len({id(unit) for unit in units})
    for place, unit in enumerate(units):
        assert not isinstance(unit, nn.Sequential | nn.ModuleList)
        inside = {id(module) for module in unit.modules()} - {id(unit)}
        assert not any(id(later) in inside for later in units[place:])


@pytest.mark.parametrize("name", NAMES)
def test_most_weights_are_in_units_and_no_unit_has_most_of_them(name: str) -> None:
    model = timm.create_model(name)
    count = sum(parameter.numel() for parameter in model.parameters())
    seen: set[int] = set()
    largest = 0
    for unit in units_of(model):
        sizes = {id(p): p.numel() for p in unit.parameters() if id(p) not in seen}
        seen |= set(sizes)
        largest = max(largest, sum(sizes.values()))
    inside = sum(parameter.numel() for parameter in model.parameters() if id(parameter) in seen)
    assert inside > 0.75 * count
    assert largest < 0.35 * count


def test_small_members_stay_with_the_network() -> None:
    small, large = nn.Linear(1, 1), nn.Linear(100, 100)
    assert sum(p.numel() for p in small.parameters()) < UNIT * 10_000
    assert units_of(nn.Sequential(small, nn.Sequential(large), nn.ReLU())) == [large]


def test_without_divided_networks_nothing_is_exchanged() -> None:
    with in_step():
        assert not torch.distributed.is_initialized()
