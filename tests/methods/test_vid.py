"""Variational information distillation beside a loop and an independent implementation."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import settings as budget
from hypothesis import strategies as st

from richkd.methods.term import Context
from richkd.methods.vid import Gaussian, Variational, VidConfig, vid_loss
from tests.methods.feature_records import batch, build, output, randn, target
from tests.reference import feature_losses as slow

PYRAMID, WIDER = ((2, 8, 8), (3, 4, 4)), ((5, 8, 8), (6, 2, 2))


@budget(max_examples=30, deadline=None)
@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 4), st.integers(0, 99))
def test_it_equals_the_loop(images: int, channels: int, side: int, seed: int) -> None:
    mean, teacher = (randn(images, channels, side, side, seed=seed + i) for i in range(2))
    variance = randn(channels, seed=seed + 2).exp()
    expected = slow.vid(mean, variance, teacher)
    assert float(vid_loss(mean, variance, teacher)) == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_it_equals_an_independent_implementation() -> None:
    mid_level = pytest.importorskip("torchdistill.losses.mid_level")
    auxiliary = pytest.importorskip("torchdistill.models.wrapper")
    student, teacher = randn(2, 3, 4, 4, seed=0), randn(2, 5, 4, 4, seed=1)
    theirs = getattr(auxiliary, "Regressor4VID")(3, 5, 5, eps=1e-5, init_pred_var=2.0).double()  # noqa: B009
    ours = Gaussian(3, 5, variance=2.0).double()
    ours.mean.load_state_dict(theirs.regressor.state_dict())
    sides = {name: {"io": "output", "path": "layer"} for name in ("teacher", "student")}
    loss = mid_level.VIDLoss({"pair": {**sides, "weight": 1}})
    expected = loss({"layer": {"output": theirs(student)}}, {"layer": {"output": teacher}})
    # Their start value of the variance is rounded to float32.
    mean, variance = ours(student)
    assert vid_loss(mean, variance, teacher).item() == pytest.approx(expected.item(), rel=1e-6)


@pytest.mark.parametrize("variance", [0.0011, 0.5, 5.0, 1e4])
def test_the_variance_starts_where_the_settings_say(variance: float) -> None:
    _, variance_F = Gaussian(2, 3, variance).double()(torch.zeros(1, 2, 2, 2).double())
    assert variance_F.tolist() == pytest.approx([variance] * 3, rel=1e-5)


def test_the_best_variance_is_the_mean_squared_difference() -> None:
    # A Gaussian's likelihood is largest there, and the loss is then ½ (1 + log variance).
    mean, teacher = randn(4, 1, 3, 3, seed=0), randn(4, 1, 3, 3, seed=1)
    best = (teacher - mean).square().mean()
    values = [float(vid_loss(mean, (best * factor).view(1), teacher)) for factor in (1.0, 0.9, 1.1)]
    assert values[0] == pytest.approx(0.5 * (1 + math.log(float(best))))
    assert values[0] < min(values[1:])


def test_gradients_are_right_and_do_not_reach_the_teacher() -> None:
    mean, teacher = randn(2, 3, 2, 2, seed=0).requires_grad_(), randn(2, 3, 2, 2, seed=1).requires_grad_()
    variance = torch.tensor([0.5, 1.0, 2.0]).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda m, v: vid_loss(m, v, teacher), (mean, variance))
    vid_loss(mean, variance, teacher).backward()  # type: ignore[no-untyped-call]
    assert teacher.grad is None


def test_the_term_is_the_sum_of_its_stages() -> None:
    student, teacher = output(3, 4, PYRAMID, seed=0), output(3, 4, WIDER, seed=9)
    term = build(Variational, VidConfig(), student, teacher)
    assert term.pairs == ((0, 0), (1, 1))
    smaller = torch.nn.functional.avg_pool2d(student.maps[1], 2)
    expected = 0.0
    for model, s_map, t_map in zip(term.models, (student.maps[0], smaller), teacher.maps, strict=True):  # type: ignore[arg-type]
        mean, variance = model(s_map)
        expected += slow.vid(mean, variance, t_map)
    value = term(student, target(teacher), batch(3), Context()).value
    assert value.item() == pytest.approx(expected, rel=1e-9)
