"""Plans with first runs in the small world."""

from __future__ import annotations

from typing import Any

from tests.compare.plans import content
from tests.fixtures import SIZE, World

TEACHER = {"student": {"name": "cifar_resnet14"}, "train.epochs": 1}


def with_first(
    world: World, first: dict[str, Any] | None = None, *, clip: bool = True, **changes: Any
) -> dict[str, Any]:
    """A plan whose teacher is trained first; its held-out images are the same for all seeds."""
    plan = content(world, seeds=[0], first={"teacher": TEACHER} if first is None else first)
    plan["base"]["teachers"] = [{"name": "run:teacher"}]
    plan["base"]["data"] |= {"val_fraction": 0, "test_calibration_fraction": 0.25}
    plan["base"]["student"] |= {"size": SIZE}
    if not clip:
        del plan["base"]["clip"]
        plan["controls"] = False
    return {name: value for name, value in (plan | changes).items() if value is not None}
