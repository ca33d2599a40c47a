"""Attention transfer beside a loop and an independent implementation."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import settings as budget
from hypothesis import strategies as st
from pydantic import ValidationError
from torch import Tensor

from richkd.core.errors import RichKDError
from richkd.core.types import Batch, Output, Target
from richkd.methods.at import AttentionConfig, AttentionTransfer, attention_loss, attention_map
from richkd.methods.term import Context, NetworkShapes, Setup
from richkd.pipeline.assemble import assemble
from richkd.pipeline.import_outputs import import_outputs
from tests.fixtures import World, make_outputs, refusal


def random_map(channels: int, side: int, seed: int, images: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(images, channels, side, side, generator=generator, dtype=torch.float64)


def slow_attention(map_BFHW: Tensor, side: int, power: float) -> list[list[float]]:
    """Attention maps at side × side, one number at a time; the side divides the map's own."""
    step = map_BFHW.shape[2] // side
    rows = []
    for image in map_BFHW.tolist():
        flat = []
        for row in range(side):
            for col in range(side):
                block = [
                    abs(channel[row * step + i][col * step + j]) ** power
                    for channel in image
                    for i in range(step)
                    for j in range(step)
                ]
                flat.append(sum(block) / len(block))
        norm = math.sqrt(sum(value * value for value in flat))
        rows.append([value / norm for value in flat])
    return rows


@budget(max_examples=30, deadline=None)
@given(
    st.integers(1, 4),
    st.integers(1, 4),
    st.integers(1, 3),
    st.sampled_from([1.0, 2.0, 3.0]),
    st.integers(0, 99),
)
def test_it_equals_the_loop(width: int, other_width: int, factor: int, power: float, seed: int) -> None:
    student, teacher = random_map(width, 3 * factor, seed), random_map(other_width, 3, seed + 1)
    value = attention_loss([(student, teacher), (teacher, student)], power)
    rows = zip(slow_attention(student, 3, power), slow_attention(teacher, 3, power), strict=True)
    squares = [(a - b) ** 2 for s_row, t_row in rows for a, b in zip(s_row, t_row, strict=True)]
    assert float(value) == pytest.approx(2 * sum(squares) / len(squares), rel=1e-9)


def test_it_equals_an_independent_implementation() -> None:
    mid_level = pytest.importorskip("torchdistill.losses.mid_level")
    student, teacher = random_map(3, 5, 0), random_map(7, 5, 1)
    sides = {name: {"io": "output", "path": "layer"} for name in ("teacher", "student")}
    theirs = mid_level.ATLoss({"pair": {**sides, "weight": 1}}, mode="code")
    io = [{"layer": {"output": maps}} for maps in (student, teacher)]
    assert float(attention_loss([(student, teacher)])) == pytest.approx(float(theirs(*io)), rel=1e-9)


def test_scale_and_number_of_channels_do_not_matter() -> None:
    teacher = random_map(4, 4, 2)
    repeated = torch.cat([teacher, teacher], dim=1)
    assert float(attention_loss([(repeated, 100 * teacher)])) == pytest.approx(0, abs=1e-24)
    assert attention_map(teacher, (2, 2)).shape == (2, 4)
    assert torch.allclose(attention_map(teacher, (4, 4)).norm(dim=1), torch.ones(2).double())


def test_gradients_are_right_and_reach_the_student_only() -> None:
    student, teacher = random_map(2, 4, 3).requires_grad_(), random_map(3, 2, 4).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: attention_loss([(x, teacher)]), (student,))
    attention_loss([(student, teacher)]).backward()  # type: ignore[no-untyped-call]
    assert teacher.grad is None


def test_an_inactive_map_has_a_finite_gradient() -> None:
    student = torch.zeros(1, 2, 3, 3, requires_grad=True)
    attention_loss([(student, random_map(2, 3, 0, images=1).float())]).backward()  # type: ignore[no-untyped-call]
    assert student.grad is not None
    assert bool(student.grad.isfinite().all())


def test_powers_whose_gradient_has_no_limit_at_zero_are_refused() -> None:
    with pytest.raises(ValidationError, match="power"):
        AttentionConfig(power=0.5)
    student = random_map(2, 3, 0).relu().requires_grad_()
    attention_loss([(student, random_map(2, 3, 1))], power=1.0).backward()  # type: ignore[no-untyped-call]
    assert student.grad is not None
    assert bool(student.grad.isfinite().all())


def test_a_map_that_is_almost_inactive_has_a_small_gradient() -> None:
    student = torch.full((1, 2, 3, 3), 1e-7, requires_grad=True)
    attention_loss([(student, random_map(2, 3, 0, images=1).float())]).backward()  # type: ignore[no-untyped-call]
    assert student.grad is not None
    assert float(student.grad.abs().max()) == 0


def test_the_term_reads_the_paired_maps() -> None:
    shapes = [NetworkShapes(4, tuple((c, s, s) for c, s in sizes)) for sizes in (((2, 8), (3, 4)), ((5, 4),))]
    labels = torch.tensor([0, 1])
    term = AttentionTransfer(AttentionConfig(), Setup(shapes[0], (shapes[1],), labels, 2, 0))
    assert term.pairs == ((1, 0),)
    maps = (random_map(2, 8, 0), random_map(3, 4, 1))
    feats = torch.zeros(2, 4)
    seen = SimpleNamespace(teacher=random_map(5, 4, 2))
    target = Target(feats, (Output(feats, feats, (seen.teacher,)),), (1.0,))
    batch = Batch("train", labels, torch.zeros(2, 2, 2, 3, dtype=torch.uint8), labels)
    value = term(Output(feats, feats, maps), target, batch, Context()).value
    assert torch.equal(value, attention_loss([(maps[1], seen.teacher)]))


def test_a_target_without_one_network_is_refused(world: World, tmp_path: Path) -> None:
    def error(**changes: Any) -> RichKDError:
        return refusal(assemble, world.config(tmp_path / "run", **changes), torch.device("cpu"))

    clip = error(objective=[{"at": {"target": "clip"}}], clip__name=f"outputs:{world.clip}")
    assert "objective.at" in clip.rule
    assert "CLIP" in str(clip)
    fused = error(method__variant="l", objective__at__weight=1)
    assert "objective.at" in fused.rule
    assert "teacher-1" in str(fused.fix)


def test_stored_outputs_have_no_maps(world: World, tmp_path: Path) -> None:
    make_outputs(tmp_path / "big.npz", world.images)
    settings = {"method__name": "at", "cache__dir": tmp_path / "cache"}
    import_outputs(tmp_path / "big.npz", world.config(tmp_path / "run", **settings))
    config = world.config(tmp_path / "run", **settings, teachers__1__name="cache:big")
    error = refusal(assemble, config, torch.device("cpu"))
    assert error.rule == "Term objective.at reads intermediate maps, which are not stored with outputs"
    assert "big" in str(error.got)


def test_a_teacher_whose_maps_are_read_is_not_cached(world: World, tmp_path: Path) -> None:
    lines: list[str] = []
    config = world.config(tmp_path / "run", method__name="at", cache__dir=tmp_path / "cache")
    parts = assemble(config, torch.device("cpu"), lines.append)
    assert any("its intermediate maps are not cached" in line for line in lines)
    assert parts.teachers[0].uncached is parts.teachers[0]
