"""What students cost."""

from __future__ import annotations

import json
from pathlib import Path

from richkd.compare.costs import costs_of
from richkd.core.errors import ModelError
from tests.compare.plans import content, run, runs_of, write
from tests.fixtures import World, refusal


def test_a_student_that_keeps_parts_of_a_loss_costs_more(world: World, tmp_path: Path) -> None:
    base = content(world)["base"]
    del base["clip"]
    methods = {"kd": None, "simkd": None}
    path = write(tmp_path, content(world, base=base, methods=methods, seeds=[0]))
    result = run(path, tmp_path / "out")
    for planned in runs_of(path):
        summary = json.loads((planned.config.out / "summary.json").read_text())
        assert result.costs[planned.name].parameters == summary["parameters"]
    kd, simkd = (result.costs[f"{name}-e1-s0"] for name in methods)
    assert simkd.parameters > kd.parameters
    assert simkd.flops > kd.flops
    # Both architectures are recorded, and are not measured again.
    assert costs_of(runs_of(path), tmp_path / "out") == result.costs
    (tmp_path / "out" / "runs" / "kd-e1-s0" / "student" / "config.json").write_text("{")
    assert isinstance(refusal(costs_of, runs_of(path), tmp_path / "out"), ModelError)
