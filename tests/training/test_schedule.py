"""The learning rate against the paper's milestones, straight lines and the cosine's closed form."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from richkd.config.schema import OptimConfig
from richkd.training.schedule import learning_rate


def test_milestones_of_the_paper() -> None:
    config, steps = OptimConfig(), 7
    expected = {0: 0.05, 149: 0.05, 150: 0.005, 179: 0.005, 180: 5e-4, 209: 5e-4, 210: 5e-5, 239: 5e-5}
    for epoch, lr in expected.items():
        for step in (epoch * steps, epoch * steps + steps - 1):
            assert learning_rate(config, step, steps, 240) == pytest.approx(lr, rel=1e-12)


def test_milestones_are_shares_of_any_run() -> None:
    config = OptimConfig(lr=1, milestones=(0.5, 0.9), gamma=0.5)
    rates = [learning_rate(config, step, 2, 10) for step in range(20)]
    assert rates == [1] * 10 + [0.5] * 8 + [0.25] * 2


@pytest.mark.parametrize(
    ("share", "epochs", "first"), [(0.875, 10, 9), (0.625, 10, 6), (0.7, 3, 2), (0.1, 3, 0)]
)
def test_a_milestone_is_the_nearest_whole_epoch(share: float, epochs: int, first: int) -> None:
    config = OptimConfig(lr=1, milestones=(share,), gamma=0.5)
    rates = [learning_rate(config, epoch, 1, epochs) for epoch in range(epochs)]
    assert rates == [1] * first + [0.5] * (epochs - first)


def test_warm_up_is_a_straight_line_to_the_peak() -> None:
    for schedule in ("step", "cosine"):
        config = OptimConfig(lr=0.4, warmup_epochs=2, schedule=schedule)
        rates = [learning_rate(config, step, 5, 100) for step in range(11)]
        assert rates[:10] == pytest.approx([0.04 * (step + 1) for step in range(10)], rel=1e-12)
        assert rates[10] == pytest.approx(0.4, rel=1e-12)


def test_a_part_of_an_epoch_is_enough_to_warm_up() -> None:
    config = OptimConfig(lr=1, warmup_epochs=0.5)
    rates = [learning_rate(config, step, 8, 100) for step in range(6)]
    assert rates == pytest.approx([0.25, 0.5, 0.75, 1, 1, 1])


def test_cosine_falls_from_the_peak_through_one_half_to_zero() -> None:
    config = OptimConfig(lr=0.2, schedule="cosine")
    rates = [learning_rate(config, step, 10, 100) for step in range(1000)]
    assert rates[0] == 0.2
    assert rates[500] == pytest.approx(0.1, rel=1e-9)
    assert rates[250] == pytest.approx(0.1 * (1 + math.sqrt(0.5)), rel=1e-9)
    # Near its end 1 + cos is half the square of the angle that is left.
    assert rates[999] == pytest.approx(0.2 * (math.pi / 1000) ** 2 / 4, rel=1e-4)
    assert all(a > b > 0 for a, b in pairwise(rates))


def test_cosine_after_a_warm_up_starts_at_the_peak() -> None:
    config = OptimConfig(lr=1, schedule="cosine", warmup_epochs=2)
    assert learning_rate(config, 20, 10, 10) == 1
    assert learning_rate(config, 60, 10, 10) == pytest.approx(0.5)


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(["step", "cosine"]),
    st.floats(0, 6),
    st.integers(1, 30),
    st.integers(1, 6),
    st.data(),
)
def test_every_step_has_a_rate_up_to_the_peak(
    schedule: str, warmup: float, steps: int, epochs: int, data: st.DataObject
) -> None:
    config = OptimConfig.model_validate({"schedule": schedule, "warmup_epochs": warmup, "lr": 0.3})
    order = data.draw(st.randoms(use_true_random=False)).sample(range(steps * epochs), steps * epochs)
    rates = {step: learning_rate(config, step, steps, epochs) for step in order}
    assert all(0 < rate <= 0.3 * (1 + 1e-12) for rate in rates.values())
    # Whatever was asked before, the answer to the same question is the same.
    assert all(learning_rate(config, step, steps, epochs) == rate for step, rate in rates.items())
    peak = round(warmup * steps)
    after = [rates[step] for step in range(peak, steps * epochs)]
    assert after == sorted(after, reverse=True)
