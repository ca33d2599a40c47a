"""Confidence-aware weights beside a loop, with labels and without, alone and in a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import settings as budget
from hypothesis import strategies as st
from PIL import Image

from richkd.data.mixup import Mix
from richkd.losses.logits import kd_divergence
from richkd.methods.aver import averaged_divergence
from richkd.methods.ca_mkd import confidence_weights
from richkd.training.run import distill
from tests.fixtures import World
from tests.methods.several import batch_of, loss_of, random_logits, target_of, with_clip
from tests.reference import several_teachers as reference


@budget(max_examples=40, deadline=None)
@given(
    st.integers(1, 4),
    st.integers(2, 7),
    st.integers(1, 4),
    st.sampled_from([0.5, 1, 4, 8]),
    st.integers(0, 99),
)
def test_it_equals_the_loop(images: int, classes: int, count: int, t: float, seed: int) -> None:
    student, teachers, labels = random_logits(images, classes, count, seed)
    labels[0] = -1 if seed % 2 else labels[0]
    weights = reference.ca_mkd_weights(teachers, labels.tolist())
    expected = reference.weighted(student, teachers, weights, t)
    value = loss_of("ca-mkd", student, teachers, labels, temperature=t)
    assert float(value) == pytest.approx(sum(expected) / images, rel=1e-9, abs=1e-12)
    weight_B = torch.linspace(0, 1, images, dtype=torch.float64)
    value = loss_of("ca-mkd", student, teachers, labels, weight_B, temperature=t)
    weighted = sum(float(w) * loss for w, loss in zip(weight_B, expected, strict=True))
    assert float(value) == pytest.approx(weighted / images, rel=1e-9, abs=1e-12)


@budget(max_examples=40, deadline=None)
@given(st.integers(1, 5), st.floats(0, 1000), st.integers(0, 99))
def test_weights_are_shares_however_wrong_a_teacher_is(count: int, factor: float, seed: int) -> None:
    _, teachers, labels = random_logits(6, 5, count, seed)
    weights_MB = confidence_weights([(factor * teacher).float() for teacher in teachers], labels)
    assert bool((weights_MB >= 0).all())
    assert torch.allclose(weights_MB.sum(dim=0), torch.ones(6), atol=1e-5)


def test_the_teacher_that_is_right_counts_more() -> None:
    right = torch.tensor([[4.0, 0.0, 0.0]])
    weights = confidence_weights([right, right.roll(1, 1), right.roll(2, 1)], torch.tensor([0]))[:, 0]
    assert weights.tolist() == pytest.approx([0.49, 0.255, 0.255], abs=0.01)


def test_unlabeled_images_have_equal_weights() -> None:
    student, teachers, labels = random_logits(4, 6, 3, 0)
    unknown = torch.full_like(labels, -1)
    assert torch.allclose(confidence_weights(teachers, unknown), torch.full((3, 4), 1 / 3).double())
    # Equal weights have the gradient of the averaged teachers.
    student.requires_grad_()
    (gradient,) = torch.autograd.grad(loss_of("ca-mkd", student, teachers, unknown), student)
    (mean,) = torch.autograd.grad(averaged_divergence(student, teachers), student)
    assert torch.allclose(gradient, mean, rtol=1e-9)


def test_one_teacher_is_plain_distillation() -> None:
    student, (teacher,), labels = random_logits(4, 6, 1, 1)
    expected = float(kd_divergence(student, teacher, 4.0))
    assert float(loss_of("ca-mkd", student, [teacher], labels)) == pytest.approx(expected, rel=1e-12)


def test_gradients_are_right_and_reach_the_student_only() -> None:
    student, teachers, labels = random_logits(3, 4, 2, 3)
    student.requires_grad_()
    teachers = [teacher.requires_grad_() for teacher in teachers]
    assert torch.autograd.gradcheck(lambda z: loss_of("ca-mkd", z, teachers, labels), (student,))
    loss_of("ca-mkd", student, teachers, labels).backward()  # type: ignore[no-untyped-call]
    assert all(teacher.grad is None for teacher in teachers)


def test_partners_of_a_mix_have_the_weights_of_their_own_labels() -> None:
    student, teachers, labels = random_logits(4, 6, 3, 5)
    partner_B = torch.tensor([2, 3, 1, 0])
    mix, target = Mix(0.7, partner_B), target_of(teachers)
    partners = mix.partners(target)
    assert partners is not None
    theirs = loss_of("ca-mkd", student, list(partners.logs), mix.batch(batch_of(labels)).labels_B)
    expected = reference.weighted(
        student,
        [teacher[partner_B] for teacher in teachers],
        reference.ca_mkd_weights([teacher[partner_B] for teacher in teachers], labels[partner_B].tolist()),
        4.0,
    )
    assert float(theirs) == pytest.approx(sum(expected) / 4, rel=1e-9)


def unlabeled(tmp_path: Path) -> str:
    folder = tmp_path / "unlabeled"
    folder.mkdir()
    for number in range(8):
        Image.new("RGB", (16, 16), (number, 30 * number, 250)).save(folder / f"{number}.png")
    return str(folder)


@pytest.mark.parametrize("name", ["aver", "ebkd", "ca-mkd"])
@pytest.mark.parametrize("extra", ["mixup", "unlabeled", "parts"])
def test_a_run_with_two_networks_and_a_clip(world: World, tmp_path: Path, name: str, extra: str) -> None:
    changes: dict[str, Any] = {
        "mixup": {"augment__mixup_alpha": 0.4},
        # Outputs of a CLIP that are read from a file lack those of the unlabeled images.
        "unlabeled": {
            "data__unlabeled": unlabeled(tmp_path),
            "data__unlabeled_fraction": 0.25,
            "clip__name": None,
        },
        "parts": {"train__grad_accum_steps": 2},
    }[extra]
    run = distill(with_clip(world, tmp_path / "run", name, **changes), quiet=True)
    assert list(run.summary["objective"]) == ["ce", name]
    (line,) = (run.folder / "metrics.jsonl").read_text().splitlines()
    assert json.loads(line)[f"train/{name}"] > 0
