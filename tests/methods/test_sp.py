"""Similarity-preserving distillation beside a loop and an independent implementation."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import settings as budget
from hypothesis import strategies as st
from torch.nn import functional

from richkd.methods.sp import SimilarityConfig, SimilarityPreserving, similarity_loss
from richkd.methods.term import Context
from tests.methods.feature_records import batch, build, output, randn, target
from tests.reference import feature_losses as slow


@budget(max_examples=30, deadline=None)
@given(st.integers(1, 6), st.integers(1, 5), st.integers(1, 5), st.integers(0, 99))
def test_it_equals_the_loop(images: int, width: int, other_width: int, seed: int) -> None:
    student, teacher = randn(images, width, seed=seed), randn(images, other_width, seed=seed + 1)
    expected = slow.similarity(student, teacher)
    assert float(similarity_loss(student, teacher)) == pytest.approx(expected, rel=1e-9, abs=1e-15)


def test_it_equals_an_independent_implementation(monkeypatch: pytest.MonkeyPatch) -> None:
    mid_level = pytest.importorskip("torchdistill.losses.mid_level")
    # Their rows have unit L1 norm; those of the paper have unit L2 norm.
    monkeypatch.setattr(mid_level, "normalize", lambda x_BB, _: functional.normalize(x_BB, p=2, dim=1))
    student, teacher = randn(5, 3, 4, 4, seed=0), randn(5, 7, 2, 2, seed=1)
    theirs = mid_level.SPKDLoss("layer", "layer", "batchmean")
    expected = theirs({"layer": {"output": student}}, {"layer": {"output": teacher}})
    value = similarity_loss(student.flatten(1), teacher.flatten(1))
    assert value.item() == pytest.approx(float(expected), rel=1e-9)


def test_gradients_are_right_and_reach_the_student_only() -> None:
    student, teacher = randn(4, 3, seed=0).requires_grad_(), randn(4, 5, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: similarity_loss(x, teacher), (student,))
    similarity_loss(student, teacher).backward()  # type: ignore[no-untyped-call]
    assert teacher.grad is None


@pytest.mark.parametrize("scale", [0.0, 1e-18, 1e18])
def test_maps_of_any_size_have_finite_losses_and_gradients(scale: float) -> None:
    student = (scale * randn(3, 4, seed=0)).float().requires_grad_()
    value = similarity_loss(student, randn(3, 4, seed=1).float())
    value.backward()  # type: ignore[no-untyped-call]
    assert student.grad is not None
    assert bool(value.isfinite())
    assert bool(student.grad.isfinite().all())
    if scale:
        plain = similarity_loss(randn(3, 4, seed=0).float(), randn(3, 4, seed=1).float())
        assert value.item() == pytest.approx(float(plain), rel=1e-4)


def test_the_term_reads_the_chosen_maps() -> None:
    student = output(4, 4, ((2, 8, 8), (3, 4, 4)), seed=0)
    teacher = output(4, 4, ((5, 16, 16), (6, 2, 2)), seed=9)
    of_stages = [slow.similarity(*maps) for maps in zip(student.maps, teacher.maps, strict=True)]
    last = build(SimilarityPreserving, SimilarityConfig(), student, teacher)
    every = build(SimilarityPreserving, SimilarityConfig(stages="all"), student, teacher)
    for term, expected in ((last, of_stages[1]), (every, sum(of_stages))):
        value = term(student, target(teacher), batch(4), Context()).value
        assert value.item() == pytest.approx(expected, rel=1e-9)
