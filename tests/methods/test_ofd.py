"""The overhaul of feature distillation beside loops in float64, its margins, and its state."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import settings as budget
from hypothesis import strategies as st
from torch import Tensor

from richkd.core.types import Batch, Output, Target
from richkd.methods.ofd import Overhaul, OverhaulConfig, margin_of_norm, overhaul_loss
from richkd.methods.term import Context, NetworkShapes, Setup
from richkd.pipeline.assemble import assemble
from tests.fixtures import World, make_teacher, refusal
from tests.reference import feature_maps as slow

LABELS = torch.tensor([0, 1, -1])


def random_map(channels: int, side: int, seed: int, images: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(images, channels, side, side, generator=generator, dtype=torch.float64)


def random_triples(seed: int) -> list[tuple[Tensor, Tensor, Tensor]]:
    margins = [-torch.rand(channels, generator=torch.Generator().manual_seed(seed)) for channels in (2, 3)]
    sizes = zip((2, 3), (4, 2), margins, strict=True)
    return [(random_map(c, side, seed), random_map(c, side, seed + 1), m.double()) for c, side, m in sizes]


@budget(max_examples=30, deadline=None)
@given(st.integers(0, 999), st.lists(st.floats(0, 1), min_size=3, max_size=3) | st.none())
def test_it_equals_the_loop(seed: int, weights: list[float] | None) -> None:
    triples = random_triples(seed)
    weight_B = None if weights is None else torch.tensor(weights, dtype=torch.float64)
    expected = slow.overhaul(triples, weights)
    assert float(overhaul_loss(triples, weight_B)) == pytest.approx(expected, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize(("scale", "shift"), [(1.0, 0.0), (0.5, 0.3), (-2.0, -1.0), (1.0, 2.0), (0.1, -5.0)])
def test_margins_are_the_expected_negative_value(scale: float, shift: float) -> None:
    margin = margin_of_norm(torch.tensor([scale]).double(), torch.tensor([shift]).double())
    assert float(margin) == pytest.approx(slow.margin_of_norm(scale, shift), rel=1e-6)


def test_margins_of_rarely_negative_and_of_dead_channels_are_finite() -> None:
    margin = margin_of_norm(torch.tensor([2.0, 0.0, 0.0, 1e-30]), torch.tensor([8.0, 1.0, 0.0, -1.0]))
    assert margin.tolist() == [-6.0, 0.0, 0.0, -1.0]


def test_gradients_are_right_and_reach_the_student_only() -> None:
    student, teacher = random_map(2, 3, 3).requires_grad_(), random_map(2, 3, 4).requires_grad_()
    margin = torch.tensor([-0.5, -0.1]).double()
    assert torch.autograd.gradcheck(lambda x: overhaul_loss([(x, teacher, margin)]), (student,))
    overhaul_loss([(student, teacher, margin)]).backward()  # type: ignore[no-untyped-call]
    assert teacher.grad is None


def test_half_precision_is_computed_in_float32() -> None:
    student, teacher = random_map(2, 9, 5).bfloat16(), random_map(2, 9, 6).bfloat16()
    value = overhaul_loss([(student, teacher, torch.zeros(2))])
    assert value.dtype == torch.float32
    assert float(value) == pytest.approx(slow.overhaul([(student, teacher, torch.zeros(2))]), rel=1e-5)


def term_of(norms: tuple[Any, ...] = (), side: int = 4) -> Overhaul:
    teacher = NetworkShapes(3, ((3, side, side),), norms)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Overhaul(OverhaulConfig(), Setup(NetworkShapes(2, ((2, 4, 4),)), (teacher,), LABELS, 2, 0))


def loss_of(
    term: Overhaul, s_map: Tensor, t_map: Tensor, step: int = 0, weight_B: Tensor | None = None
) -> Any:
    logits = torch.zeros(len(s_map), 2)
    target = Target(logits, (Output(logits, logits, (t_map,)),), (1.0,), weight_B)
    batch = Batch("train", torch.arange(len(s_map)), torch.zeros(len(s_map), 2, 2, 3), LABELS[: len(s_map)])
    return term(Output(logits, logits, (s_map,)), target, batch, Context(step=step))


def test_margins_are_the_mean_negative_value_of_the_first_step() -> None:
    term, s_map, t_map = term_of(), random_map(2, 4, 0).float(), random_map(3, 4, 1).float()
    parts = [
        loss_of(term, s_map[:2], t_map[:2]),
        loss_of(term, s_map[2:].repeat(2, 1, 1, 1), t_map[1:]),
    ]
    # Another process has the same step; all rows are gathered before they are remembered.
    for part in parts:
        term.remember(torch.arange(2), part.memory)
    seen = torch.cat([t_map[:2], t_map[1:]]).transpose(0, 1).flatten(1)
    expected = torch.stack([channel[channel < 0].mean() for channel in seen])
    assert torch.allclose(term.get_buffer("margin0"), expected)
    later = loss_of(term, s_map, 9 * t_map, step=1)
    assert not later.memory
    again = overhaul_loss([(term.connectors[0](s_map), 9 * t_map, expected)])
    assert later.value.item() == pytest.approx(again.item(), rel=1e-6)


def test_the_first_step_uses_the_margins_of_its_own_images() -> None:
    term, s_map, t_map = term_of(), random_map(2, 4, 0).float(), random_map(3, 4, 1).float()
    channels = t_map.transpose(0, 1).flatten(1)
    margin = torch.stack([channel[channel < 0].mean() for channel in channels])
    value = float(loss_of(term, s_map, t_map).value)
    assert value == pytest.approx(
        float(overhaul_loss([(term.connectors[0](s_map), t_map, margin)])), rel=1e-6
    )


def test_a_map_behind_norm_and_relu_has_the_margins_of_the_norm() -> None:
    norm = (torch.tensor([1.0, 0.5, 2.0]), torch.tensor([0.0, 0.2, -1.0]))
    term, s_map, before = term_of((norm,)), random_map(2, 4, 0).float(), random_map(3, 4, 1).float()
    loss = loss_of(term, s_map, before.relu())
    assert not loss.memory
    margin = margin_of_norm(*norm)
    expected = torch.where(before > 0, before, margin[:, None, None])
    assert float(loss.value) == pytest.approx(
        slow.overhaul([(term.connectors[0](s_map), expected, margin)]), rel=1e-5
    )


def test_a_map_behind_another_relu_only_asks_the_student_to_be_inactive() -> None:
    triple = (torch.full((1, 1, 2, 2), -7.0), torch.zeros(1, 1, 2, 2), torch.zeros(1))
    assert float(overhaul_loss([triple])) == 0


def test_weights_and_sizes() -> None:
    term, s_map, t_map = term_of(side=2), random_map(2, 4, 0).float(), random_map(3, 2, 1).float()
    term.remember(torch.arange(3), loss_of(term, s_map, t_map).memory)
    margin = term.get_buffer("margin0")
    weight_B = torch.tensor([1.0, 0.0, 0.25])
    connected = term.connectors[0](torch.nn.functional.avg_pool2d(s_map, 2))
    expected = slow.overhaul([(connected, t_map, margin)], weight_B.tolist())
    assert float(loss_of(term, s_map, t_map, step=1, weight_B=weight_B).value) == pytest.approx(
        expected, rel=1e-5
    )


def test_connectors_start_as_published() -> None:
    term = Overhaul(
        OverhaulConfig(),
        Setup(NetworkShapes(9, ((256, 4, 4),)), (NetworkShapes(9, ((512, 4, 4),)),), LABELS, 2, 0),
    )
    assert float(term.connectors[0][0].weight.std()) == pytest.approx(math.sqrt(2 / 512), rel=0.02)


def test_several_teachers_are_refused(world: World, tmp_path: Path) -> None:
    make_teacher(tmp_path / "second", seed=9)
    config = world.config(
        tmp_path / "run", method__name="ofd", teachers__2__name=f"local-dir:{tmp_path / 'second'}"
    )
    assert "one vision teacher" in refusal(assemble, config, torch.device("cpu")).rule
