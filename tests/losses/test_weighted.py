"""Weighted means and squared errors against loops; teachers without a gradient."""

from __future__ import annotations

import pytest
import torch

from richkd.losses.weighted import squared_error, weighted_mean

LOSS_B = torch.tensor([1.0, 3.0, 8.0])


@pytest.mark.parametrize(
    ("weights", "mean"),
    [(None, 4.0), ([1.0, 1.0, 1.0], 4.0), ([0.0, 1.0, 0.5], 7 / 3), ([0.0, 0.0, 0.0], 0.0)],
)
def test_the_divisor_is_the_number_of_images(weights: list[float] | None, mean: float) -> None:
    weight_B = None if weights is None else torch.tensor(weights)
    assert float(weighted_mean(LOSS_B, weight_B)) == pytest.approx(mean)


def test_the_gradient_of_an_image_is_its_weight_over_the_number_of_images() -> None:
    loss_B = LOSS_B.clone().requires_grad_()
    weighted_mean(loss_B, torch.tensor([0.0, 1.0, 0.5])).backward()
    assert loss_B.grad is not None
    torch.testing.assert_close(loss_B.grad, torch.tensor([0.0, 1.0, 0.5]) / 3)


@pytest.mark.parametrize("shape", [(3, 5), (3, 2, 4, 4)])
def test_squared_errors_equal_the_loop(shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    student_BX, teacher_BX = (torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(2))
    images = zip(student_BX, teacher_BX, strict=True)
    pairs = [zip(s_X.flatten().tolist(), t_X.flatten().tolist(), strict=True) for s_X, t_X in images]
    squares = [[(s - t) ** 2 for s, t in numbers] for numbers in pairs]
    means = [sum(values) / len(values) for values in squares]
    assert squared_error(student_BX, teacher_BX).tolist() == pytest.approx(means)


def test_squared_errors_are_float32_and_only_the_student_has_a_gradient() -> None:
    student_BX, teacher_BX = (torch.ones(2, 3, dtype=torch.bfloat16, requires_grad=True) for _ in range(2))
    error_B = squared_error(student_BX, 3 * teacher_BX)
    assert error_B.dtype == torch.float32
    error_B.sum().backward()
    assert student_BX.grad is not None
    assert teacher_BX.grad is None
