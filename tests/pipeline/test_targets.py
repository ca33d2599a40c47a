"""Terms that read each teacher by itself: what their targets hold, and what is not fitted for them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from richkd.core.types import Target
from richkd.data.mixup import Mix
from richkd.pipeline.assemble import Parts, assemble
from richkd.training.run import distill
from tests.fixtures import World, refusal
from tests.methods.several import with_clip

CPU = torch.device("cpu")


def taught(parts: Parts, name: str) -> Target:
    (batch,) = parts.training_batches(0, [parts.order().epoch(0)[0]])
    return parts.teach(batch, 0)[name]


def test_logs_are_of_each_teacher_at_its_own_scale(world: World, tmp_path: Path) -> None:
    parts = assemble(with_clip(world, tmp_path / "run", "aver"), CPU)
    target = taught(parts, "fused")
    assert [teacher.logit_scale for teacher in parts.teachers] == [1.0, 1.0, 100.0]
    for scale, output, log_BC in zip((1, 1, 100), target.teachers, target.logs, strict=True):
        assert torch.allclose(log_BC, (scale * output.logits_BC).log_softmax(dim=1))
    mean_BC = torch.stack([log_BC.exp() for log_BC in target.logs]).mean(dim=0)
    assert torch.allclose(target.logits_BC.exp(), mean_BC, atol=1e-6)


def test_other_terms_get_no_logs(world: World, tmp_path: Path) -> None:
    assert taught(assemble(with_clip(world, tmp_path / "run", "kd"), CPU), "fused").logs == ()


def test_they_follow_the_images_and_are_mixed_as_probabilities(world: World, tmp_path: Path) -> None:
    target = taught(assemble(with_clip(world, tmp_path / "run", "aver"), CPU), "fused")
    partner_B = torch.arange(len(target.logits_BC)).flip(0)
    assert all(
        torch.equal(a[partner_B], b) for a, b in zip(target.logs, target.at(partner_B).logs, strict=True)
    )
    mixed = Mix(0.75, partner_B).target(target)
    assert mixed is not None
    for log_BC, mixed_BC in zip(target.logs, mixed.logs, strict=True):
        expected_BC = 0.75 * log_BC.exp() + 0.25 * log_BC.exp()[partner_B]
        assert torch.allclose(mixed_BC.exp(), expected_BC, atol=1e-6)


def test_nothing_is_fitted_so_held_out_images_are_not_needed(world: World, tmp_path: Path) -> None:
    without = {"data__val_fraction": 0}
    run = distill(with_clip(world, tmp_path / "run", "ca-mkd", **without), quiet=True)
    assert run.summary["fusion"]["mixing"] == {"kind": "linear", "weights": [1 / 3] * 3}
    assert "each teacher by itself" in run.summary["fusion"]["origin"]
    # A term that reads the fused logits of the same target needs the fit.
    both = [{"kd": {"target": "fused"}}, {"ca-mkd": {"target": "fused"}}]
    config = with_clip(world, tmp_path / "both", "ca-mkd", objective=both, **without)
    assert "held-out" in refusal(assemble, config, CPU).rule


@pytest.mark.parametrize(
    "setting",
    [
        {"fusion__preset": "paper"},
        {"fusion__scale": "raw"},
        {"fusion__mixing": "gate"},
        {"fusion__alpha": 0.5},
        {"fusion__weights": (1.0, 1.0, 50.0)},
    ],
    ids=lambda setting: next(iter(setting)),
)
def test_settings_of_the_fusion_are_refused(world: World, tmp_path: Path, setting: dict[str, Any]) -> None:
    error = refusal(assemble, with_clip(world, tmp_path / "run", "ebkd", **setting), CPU)
    (name,) = setting
    assert name.replace("__", ".") in error.rule
    assert "terms read each teacher by itself, so nothing is fused" in error.rule
    # They have an effect beside a term that reads the fused logits.
    objective = [{"ce": None}, {"ebkd": {"target": "fused"}}, {"kd": {"target": "fused"}}]
    assemble(with_clip(world, tmp_path / "run", "ebkd", objective=objective, **setting), CPU)


def test_one_teacher_leaves_no_setting_of_the_fusion(world: World, tmp_path: Path) -> None:
    for setting in ({"fusion__weights": (0.7,)}, {"fusion__control": "teacher-only"}):
        error = refusal(assemble, world.config(tmp_path / "run", method__name="aver", **setting), CPU)
        assert "there is only one teacher, so nothing is fused" in error.rule


def test_controls_replace_the_clip_and_the_teacher_alone_is_refused(world: World, tmp_path: Path) -> None:
    def parts(control: str) -> Parts:
        return assemble(with_clip(world, tmp_path / "run", "aver", fusion__control=control), CPU)

    shuffled, alone = taught(parts("shuffled"), "fused"), taught(parts("clip-only"), "fused")
    given = taught(assemble(with_clip(world, tmp_path / "run", "aver"), CPU), "fused")
    assert torch.equal(shuffled.logs[0], given.logs[0])
    assert not torch.equal(shuffled.logs[2], given.logs[2])
    assert [torch.equal(log_BC, given.logs[2]) for log_BC in alone.logs] == [True]
    error = refusal(parts, "teacher-only")
    assert "objective.aver reads each teacher" in error.rule
