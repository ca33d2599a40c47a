"""What holds for every term that compares logits: precision, weights of images, mixing, parts of a batch."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from richkd.config.choices import TERMS
from richkd.config.loading import load_config
from richkd.core.types import UNLABELED
from richkd.data.mixup import Mix
from richkd.methods.objective import read_objective
from richkd.methods.term import LogitConfig
from tests.fixtures import refusal
from tests.methods.records import build, random_logits, random_weights, value_of

NAMES = sorted(name for name in TERMS if issubclass(TERMS[name].Config, LogitConfig))
# The loss of these terms is no mean over images: images are compared with each other.
COMPARE_IMAGES = {"dist", "mlkd"}
PLAIN_AND_STANDARDIZED = pytest.mark.parametrize("standardize", [False, True])


@PLAIN_AND_STANDARDIZED
@pytest.mark.parametrize("name", NAMES)
def test_autocast_and_half_precision_do_not_lower_the_precision(name: str, standardize: bool) -> None:
    student, teacher, labels = random_logits(6, 5, 0)
    objective = build(name, labels, 5, standardize=standardize)
    student, teacher = student.bfloat16(), teacher.bfloat16()
    expected = value_of(objective.double(), student.double(), teacher.double(), labels)
    with torch.autocast("cpu", torch.bfloat16):
        value = value_of(objective.float(), student, teacher, labels)
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(expected.item(), rel=1e-5)


@PLAIN_AND_STANDARDIZED
@pytest.mark.parametrize("name", NAMES)
def test_a_common_weight_is_a_factor_and_an_image_of_weight_zero_is_absent(
    name: str, standardize: bool
) -> None:
    student, teacher, labels = random_logits(6, 5, 1)
    objective = build(name, labels, 5, standardize=standardize).double()
    plain = value_of(objective, student, teacher, labels).item()
    assert value_of(objective, student, teacher, labels, torch.ones(6).double()).item() == pytest.approx(
        plain, rel=1e-12
    )
    half_B = torch.full((6,), 0.5).double()
    assert value_of(objective, student, teacher, labels, half_B).item() == pytest.approx(plain / 2, rel=1e-12)
    assert value_of(objective, student, teacher, labels, 0 * half_B).item() == 0
    weight_B = random_weights(6, 1)
    value = value_of(objective, student, teacher, labels, weight_B)
    student[0], teacher[0] = student[0].flip(0), 3 * teacher[0].flip(0)
    other = value_of(objective, student, teacher, labels, weight_B)
    assert other.item() == pytest.approx(value.item(), rel=1e-12)


@PLAIN_AND_STANDARDIZED
@pytest.mark.parametrize("name", NAMES)
def test_unlabeled_images_take_part(name: str, standardize: bool) -> None:
    student, teacher, labels = random_logits(6, 5, 2)
    objective = build(name, labels, 5, standardize=standardize).double()
    unknown = torch.where(torch.arange(6) % 2 == 0, UNLABELED, labels)
    guessed = torch.where(unknown == UNLABELED, teacher.argmax(dim=1), labels)
    value = value_of(objective, student, teacher, unknown)
    assert value.item() == pytest.approx(value_of(objective, student, teacher, guessed).item(), rel=1e-12)
    student.requires_grad_()
    value_of(objective, student, teacher, unknown).backward()
    assert student.grad is not None
    assert bool((student.grad.abs().sum(dim=1) > 0).all())


@PLAIN_AND_STANDARDIZED
@pytest.mark.parametrize("name", NAMES)
def test_a_mixed_batch_has_two_losses_or_a_mixed_target(name: str, standardize: bool) -> None:
    student, teacher, labels = random_logits(6, 5, 3)
    weight_B = random_weights(6, 3)
    objective = build(name, labels, 5, standardize=standardize).double()
    mix = Mix(0.7, torch.tensor([2, 0, 1, 5, 3, 4]))
    partner_B = mix.partner_B
    value = value_of(objective, student, teacher, labels, weight_B, mix).item()
    if TERMS[name].linear:
        first = value_of(objective, student, teacher, labels, weight_B)
        second = value_of(objective, student, teacher[partner_B], labels[partner_B], weight_B[partner_B])
        expected = 0.7 * first + 0.3 * second
    else:
        mixed = (0.7 * teacher.softmax(dim=1) + 0.3 * teacher[partner_B].softmax(dim=1)).log()
        mixed_B = 0.7 * weight_B + 0.3 * weight_B[partner_B]
        expected = value_of(objective, student, mixed, labels, mixed_B)
    assert value == pytest.approx(expected.item(), rel=1e-12)


def test_the_terms_whose_targets_enter_linearly() -> None:
    known = {"ctkd", "dist", "dkd", "kd", "mlkd", "nkd", "wttm"}
    assert {name for name in known if TERMS[name].linear} == {"ctkd", "kd", "wttm"}


@pytest.mark.parametrize("name", sorted(set(NAMES) - COMPARE_IMAGES))
def test_the_loss_of_a_batch_is_the_mean_of_its_parts(name: str) -> None:
    student, teacher, labels = random_logits(6, 5, 4)
    weight_B = random_weights(6, 4)
    objective = build(name, labels, 5).double()

    def part(images: slice) -> float:
        return value_of(objective, student[images], teacher[images], labels[images], weight_B[images]).item()

    assert part(slice(6)) == pytest.approx(part(slice(2)) / 3 + part(slice(2, 6)) * 2 / 3, rel=1e-12)


@PLAIN_AND_STANDARDIZED
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "rows",
    [
        [[200.0, -200.0, 0.0], [-300.0, 300.0, 0.0]],
        [[0.0, 0.0, 0.0], [1.0, 2.0, 3.0]],
        [[1.0, 2.0, 3.0], [0.0, 0.0, 0.0]],
        [[1.0, 2.0, 3.0], [1.0, 2.0, 3.0]],
    ],
    ids=["confident", "constant-student", "constant-teacher", "equal"],
)
def test_extreme_logits_give_finite_losses_and_gradients(
    name: str, rows: list[list[float]], standardize: bool
) -> None:
    student, teacher = (torch.tensor([row] * 2) for row in rows)
    labels = torch.tensor([1, 0])
    objective = build(name, labels, 3, standardize=standardize)
    student.requires_grad_()
    value = value_of(objective, student, teacher, labels)
    value.backward()
    assert bool(value.isfinite())
    gradients: list[Any] = [student.grad, *(parameter.grad for parameter in objective.parameters())]
    assert all(bool(gradient.isfinite().all()) for gradient in gradients)


@PLAIN_AND_STANDARDIZED
@pytest.mark.parametrize("name", NAMES)
def test_gradients_are_right_and_reach_the_student_only(name: str, standardize: bool) -> None:
    student, teacher, labels = random_logits(3, 4, 5)
    weight_B = random_weights(3, 5)
    objective = build(name, labels, 4, standardize=standardize).double()
    student.requires_grad_()
    teacher.requires_grad_()

    def value(student: torch.Tensor) -> torch.Tensor:
        return value_of(objective, student, teacher.detach(), labels, weight_B)

    assert torch.autograd.gradcheck(value, (student,))
    value_of(objective, student, teacher, labels, weight_B).backward()
    assert teacher.grad is None


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("value", ["0", "-1", "1e-45", "1e200", ".inf", ".nan"])
def test_temperatures_without_a_finite_square_are_refused(name: str, value: str) -> None:
    setting = {"mlkd": "temperatures", "ctkd": "min_temperature"}.get(name, "temperature")
    given = f"[{value}]" if setting == "temperatures" else value
    base = {"data.path": "photos", "student.name": "resnet18", "method.name": name}
    config = load_config(None, base | {f"objective.{name}.{setting}": given})
    assert f"objective.{name}.{setting}" in refusal(read_objective, config).rule
