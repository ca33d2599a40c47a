"""Every method has the losses of one process: no term takes the images of a process for all of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from richkd.config.choices import TERMS
from richkd.training.run import distill
from tests.distributed.starts import lines, work
from tests.fixtures import World

SETTINGS: dict[str, Any] = {
    "train__batch_size": 13,
    "train__epochs": 1,
    "optim__lr": 1e-4,
    "train__trackers": (),
}
SMALL: dict[str, dict[str, Any]] = {
    name: {f"objective.{name}.num_negatives": 16, f"objective.{name}.embed_dim": 8}
    for name in ("crd", "contrastive")
}
NAMES = sorted(TERMS)


@pytest.mark.slow
def test_every_method_has_the_losses_of_one_process(world: World, tmp_path: Path) -> None:
    settings = {name: SETTINGS | SMALL.get(name, {}) | {"method__name": name} for name in NAMES}
    runs = [(name, changes, {}, f"three/{name}") for name, changes in settings.items()]
    status, output = work(world, tmp_path, 3, runs)
    assert status == 0, output
    for name, changes in settings.items():
        distill(world.config(tmp_path / "one" / name, **changes), quiet=True)
        for line, other in zip(lines(tmp_path / "one" / name), lines(tmp_path / "three" / name), strict=True):
            for what, value in line.items():
                # A divergence of nearly equal distributions is a small difference of large numbers.
                assert other[what] == pytest.approx(value, rel=2e-4, abs=1e-6), (name, what)
