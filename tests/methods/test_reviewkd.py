"""Knowledge review beside loops in float64 and an independent implementation."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import settings as budget
from hypothesis import strategies as st
from torch import Tensor

from richkd.core.types import Batch, Output, Target
from richkd.methods.reviewkd import AttentionFusion, Review, ReviewConfig, context_loss
from richkd.methods.term import Context, NetworkShapes, Setup
from tests.reference import feature_maps as slow


def random_map(channels: int, side: int, seed: int, images: int = 2) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(images, channels, side, side, generator=generator, dtype=torch.float64)


@budget(max_examples=30, deadline=None)
@given(st.integers(1, 7), st.integers(0, 99), st.lists(st.floats(0, 1), min_size=2, max_size=2) | st.none())
def test_the_context_loss_equals_the_loop(side: int, seed: int, weights: list[float] | None) -> None:
    sizes = ((2, side), (3, 1))
    levels = [(random_map(c, s, seed), random_map(c, s, seed + 1)) for c, s in sizes]
    weight_B = None if weights is None else torch.tensor(weights, dtype=torch.float64)
    expected = slow.context(levels, weights)
    assert float(context_loss(levels, weight_B)) == pytest.approx(expected, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("size", [(4, 4), (6, 6), (3, 3)])
def test_the_fusion_equals_the_loop(size: tuple[int, int]) -> None:
    module = AttentionFusion(2, 3, 4, fuse=True).double()
    shallow, deeper = random_map(2, 4, 0), random_map(3, 2, 1)
    out, fused = module(shallow, deeper, size)
    state = module.state_dict()
    results = slow.fusion(lambda name: state[name].tolist(), slow.maps(shallow), slow.maps(deeper), size)
    for value, expected in zip((out, fused), results, strict=True):
        assert torch.allclose(value, torch.tensor(expected, dtype=torch.float64), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("fuse", [True, False])
def test_the_fusion_equals_an_independent_implementation(fuse: bool) -> None:
    wrapper = pytest.importorskip("torchdistill.models.wrapper")
    ours, theirs = AttentionFusion(2, 3, 5, fuse=fuse), wrapper.AttentionBasedFusion(2, 3, 5, fuse)
    theirs.conv1.load_state_dict(ours.reduce.state_dict())
    theirs.conv2.load_state_dict(ours.expand.state_dict())
    if fuse:
        theirs.attention_conv[0].load_state_dict(ours.attention.state_dict())
    shallow, deeper = random_map(2, 4, 0), random_map(3, 2, 1) if fuse else None
    expected = theirs.double()(shallow, deeper, 4)
    for value, other in zip(ours.double()(shallow, deeper, (4, 4)), expected, strict=True):
        assert torch.allclose(value, other, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("side", [1, 2, 4, 7])
def test_the_loss_equals_an_independent_implementation(side: int) -> None:
    mid_level = pytest.importorskip("torchdistill.losses.mid_level")
    theirs = mid_level.HierarchicalContextLoss("layer", "output", "layer", "output")
    student, teacher = random_map(3, side, 0), random_map(3, side, 1)
    expected = theirs({"layer": {"output": (student, None)}}, {"layer": {"output": teacher}})
    assert float(context_loss([(student, teacher)])) == pytest.approx(float(expected), rel=1e-9)


def test_gradients_are_right_and_reach_the_student_only() -> None:
    student, teacher = random_map(2, 5, 3).requires_grad_(), random_map(2, 5, 4).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: context_loss([(x, teacher)]), (student,))
    context_loss([(student, teacher)]).backward()  # type: ignore[no-untyped-call]
    assert teacher.grad is None


def test_half_precision_is_computed_in_float32() -> None:
    student, teacher = random_map(2, 9, 5).bfloat16(), random_map(2, 9, 6).bfloat16()
    value = context_loss([(student, teacher)])
    assert value.dtype == torch.float32
    assert float(value) == pytest.approx(slow.context([(student, teacher)]), rel=1e-5)


def review() -> tuple[Review, Output, Output]:
    """A term, and outputs of a student with two stages and a teacher with the same number."""
    student_shapes, teacher_shapes = ((2, 4, 4), (3, 2, 2)), ((4, 8, 8), (5, 2, 2))
    setup = Setup(
        NetworkShapes(6, student_shapes), (NetworkShapes(7, teacher_shapes),), torch.tensor([0, 1]), 2, 0
    )
    feats = [torch.randn(2, width, generator=torch.Generator().manual_seed(width)) for width in (6, 7)]
    outputs = [
        Output(torch.zeros(2, 2), feat, tuple(random_map(c, s, c).float() for c, s, _ in shapes))
        for feat, shapes in zip(feats, (student_shapes, teacher_shapes), strict=True)
    ]
    return Review(ReviewConfig(), setup), *outputs


def loss_of(
    term: Review, student: Output, teacher: Output, progress: float, weight_B: Tensor | None = None
) -> float:
    target = Target(teacher.logits_BC, (teacher,), (1.0,), weight_B)
    batch = Batch("train", torch.arange(2), torch.zeros(2, 2, 2, 3), torch.tensor([-1, 1]))
    return float(term(student, target, batch, Context(progress=progress)).value)


def test_every_stage_reviews_all_deeper_ones() -> None:
    term, student, teacher = review()
    term.double()
    student = Output(student.logits_BC, student.feats_BF.double(), tuple(m.double() for m in student.maps))
    levels, deeper = [], None
    modules = (term.last, term.fusions[1], term.fusions[0])
    s_maps = (student.feats_BF[:, :, None, None], student.maps[1], student.maps[0])
    t_maps = (teacher.feats_BF[:, :, None, None], teacher.maps[1], teacher.maps[0])
    for module, s_map, t_map in zip(modules, s_maps, t_maps, strict=True):
        state = module.state_dict()
        size = (t_map.shape[2], t_map.shape[3])
        out, deeper = slow.fusion(lambda name, s=state: s[name].tolist(), slow.maps(s_map), deeper, size)
        levels.append((torch.tensor(out, dtype=torch.float64), t_map))
    for weights in (None, [0.5, 0.0]):
        weight_B = None if weights is None else torch.tensor(weights, dtype=torch.float64)
        value = loss_of(term, student, teacher, 0.5, weight_B)
        assert value == pytest.approx(slow.context(levels, weights), rel=1e-9)


@pytest.mark.parametrize(
    ("width", "features", "expected"), [(None, 6, 6), (None, 1280, 512), (256, 1280, 256), (9, 6, 9)]
)
def test_stages_are_fused_in_the_width_of_the_setting(
    width: int | None, features: int, expected: int
) -> None:
    shapes = NetworkShapes(features, ((2, 4, 4),)), (NetworkShapes(7, ((4, 8, 8),)),)
    term = Review(ReviewConfig(width=width), Setup(*shapes, torch.tensor([0, 1]), 2, 0))
    assert {fusion.reduce[0].out_channels for fusion in (*term.fusions, term.last)} == {expected}


def test_the_warm_up_is_a_share_of_the_run() -> None:
    term, student, teacher = review()
    values = [loss_of(term, student, teacher, progress) for progress in (0.0, 1 / 24, 0.5)]
    assert values[0] == 0
    assert values[1] == pytest.approx(values[2] / 2)


def test_every_parameter_gets_a_gradient() -> None:
    # Several processes wait for all of them.
    term, student, teacher = review()
    target = Target(teacher.logits_BC, (teacher,), (1.0,))
    batch = Batch("train", torch.arange(2), torch.zeros(2, 2, 2, 3), torch.tensor([0, 1]))
    term(student, target, batch, Context(progress=0.5)).value.backward()
    assert all(parameter.grad is not None for parameter in term.parameters())
