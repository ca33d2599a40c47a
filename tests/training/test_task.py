"""The parts of gradient accumulation compute what the whole step would, random numbers included."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from richkd.config.schema import ModelConfig
from richkd.models.build import build_network
from richkd.training.run import distill
from richkd.training.task import draws_numbers
from tests.fixtures import World


def losses(world: World, out: Path, **changes: Any) -> list[dict[str, float]]:
    distill(world.config(out, **changes), quiet=True)
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("parts", [2, 3, 5])
def test_parts_do_not_change_dropout_and_mixup(world: World, tmp_path: Path, parts: int) -> None:
    changes: dict[str, Any] = {
        "student__name": "tests.distributed.students:NoisyNet",
        # Statistics of batches depend on the parts.
        "student__args": {"norm": False},
        "augment__mixup_alpha": 0.4,
        "augment__cutmix_alpha": 1.0,
        "train__batch_size": 11,
        "train__epochs": 1,
        "optim__lr": 0.002,
        "method__variant": "l",
        "train__trackers": (),
    }
    (whole,) = losses(world, tmp_path / "whole", **changes)
    (cut,) = losses(world, tmp_path / "cut", **changes, train__grad_accum_steps=parts)
    for name in ("train/ce", "train/kd", "val/nll"):
        assert cut[name] == pytest.approx(whole[name], rel=5e-6), name


def test_networks_that_draw_are_known_and_left_as_they_were() -> None:
    for name, drawing in (("tests.distributed.students:NoisyNet", True), ("tests.fixtures:PlainNet", False)):
        network = build_network(ModelConfig(name=name, size=16), 3, role="student")
        state = {key: value.clone() for key, value in network.state_dict().items()}
        numbers = torch.get_rng_state()
        assert draws_numbers(network) == drawing
        assert torch.equal(torch.get_rng_state(), numbers)
        for key, value in network.state_dict().items():
            assert torch.equal(value, state[key])
