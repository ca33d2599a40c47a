"""Hints beside a loop, and the stages and the connector of the term."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import settings as budget
from hypothesis import strategies as st
from torch.nn import functional

from richkd.methods.fitnet import HintConfig, Hints, hint_loss
from richkd.methods.stages import Stages
from richkd.methods.term import Context
from tests.methods.feature_records import batch, build, output, randn, target
from tests.reference import feature_losses as slow

PYRAMID, WIDER = ((2, 8, 8), (3, 4, 4), (4, 2, 2)), ((5, 16, 16), (6, 8, 8), (7, 4, 4))


@budget(max_examples=30, deadline=None)
@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 4), st.integers(0, 99))
def test_it_equals_the_loop(images: int, channels: int, side: int, seed: int) -> None:
    student, teacher = (randn(images, channels, side, side, seed=seed + i) for i in range(2))
    assert float(hint_loss(student, teacher)) == pytest.approx(slow.hint(student, teacher), rel=1e-9)


def test_gradients_are_right_and_reach_the_student_only() -> None:
    student, teacher = randn(2, 3, 2, 2, seed=0).requires_grad_(), randn(2, 3, 2, 2, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: hint_loss(x, teacher), (student,))
    hint_loss(student, teacher).backward()  # type: ignore[no-untyped-call]
    assert teacher.grad is None


@pytest.mark.parametrize(
    ("stages", "pairs"), [("middle", ((1, 1),)), ("last", ((2, 2),)), ("all", ((0, 0), (1, 1), (2, 2)))]
)
def test_the_term_projects_the_chosen_maps(stages: Stages, pairs: tuple[tuple[int, int], ...]) -> None:
    student, teacher = output(3, 4, PYRAMID, seed=0), output(3, 4, WIDER, seed=9)
    term = build(Hints, HintConfig(stages=stages), student, teacher)
    value = term(student, target(teacher), batch(3), Context()).value
    weights = [parameter for name, parameter in term.named_parameters() if name.endswith("weight")]
    biases = [parameter for name, parameter in term.named_parameters() if name.endswith("bias")]
    expected = 0.0
    for (stage, other), weight, bias in zip(pairs, weights, biases, strict=True):
        # The teacher's maps have twice the side, so 2 × 2 positions are averaged.
        smaller = functional.avg_pool2d(teacher.maps[other], 2)
        projected = torch.einsum("bfhw,gf->bghw", student.maps[stage], weight[:, :, 0, 0])
        expected += slow.hint(projected + bias[:, None, None], smaller)
    assert value.item() == pytest.approx(expected, rel=1e-9)


def test_a_larger_map_of_the_student_is_averaged() -> None:
    student, teacher = output(2, 4, WIDER, seed=0), output(2, 4, PYRAMID, seed=9)
    term = build(Hints, HintConfig(stages="last"), student, teacher)
    smaller = functional.avg_pool2d(student.maps[2], 2)
    (connector,) = term.connectors  # type: ignore[misc]
    value = term(student, target(teacher), batch(2), Context()).value
    assert value.item() == pytest.approx(slow.hint(connector(smaller), teacher.maps[2]), rel=1e-9)


def test_a_mixed_target_has_the_gradient_of_two_mixed_losses() -> None:
    student, first, second = (randn(3, 2, 4, 4, seed=seed) for seed in range(3))

    def gradient(*weighted: tuple[float, torch.Tensor]) -> torch.Tensor:
        x = student.clone().requires_grad_()
        (grad,) = torch.autograd.grad(sum(w * hint_loss(x, t) for w, t in weighted), x)  # type: ignore[arg-type]
        return grad

    mixed = gradient((1.0, 0.7 * first + 0.3 * second))
    assert torch.allclose(mixed, gradient((0.7, first), (0.3, second)), rtol=1e-12)
