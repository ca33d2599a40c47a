"""The curriculum temperature: its reversed gradient, its schedule, and its place in the state of a run."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import settings as budget
from hypothesis import strategies as st
from torch import Tensor

from richkd.core.numerics import at_least_fp32
from richkd.losses.logits import kd_divergence
from richkd.methods.ctkd import CtkdConfig, curriculum_lambda, reverse_gradient
from richkd.methods.objective import Objective, logit_temperature
from richkd.methods.term import Context
from richkd.training.checkpoint import load_checkpoint
from richkd.training.run import distill
from tests.fixtures import World
from tests.methods.records import build, random_logits, random_weights, value_of
from tests.reference import losses as slow

STATE = "objective.terms.ctkd.raw_temperature"


def raw_of(objective: Objective) -> Tensor:
    raw: Tensor = objective.terms["ctkd"].raw_temperature  # type: ignore[assignment]
    return raw


@budget(max_examples=30, deadline=None)
@given(st.floats(-4, 4), st.floats(0.5, 3), st.floats(0.1, 30), st.integers(0, 99))
def test_the_loss_is_kd_at_the_trained_temperature(
    raw: float, smallest: float, span: float, seed: int
) -> None:
    student, teacher, labels = random_logits(4, 5, seed)
    objective = build("ctkd", labels, 5, min_temperature=smallest, span=span, weight=0.9).double()
    raw_of(objective).data.fill_(raw)
    temperature = smallest + span / (1 + math.exp(-raw))
    expected = 0.9 * slow.kd_divergence(student, teacher, temperature)
    assert value_of(objective, student, teacher, labels).item() == pytest.approx(expected, rel=1e-9)


@budget(max_examples=20, deadline=None)
@given(st.floats(0, 1), st.integers(0, 99))
def test_the_gradient_of_the_temperature_is_reversed_and_scaled(progress: float, seed: int) -> None:
    student, teacher, labels = random_logits(4, 5, seed)
    weight_B = random_weights(4, seed)
    objective = build("ctkd", labels, 5, weight=2.0, curriculum=0.5).double()
    context = Context(progress=progress)
    value_of(objective, student, teacher, labels, weight_B, context=context).backward()
    # Numerically, from losses at neighboring temperatures.
    step, losses = 1e-5, []
    for sign in (1, -1):
        temperature = 1 + 20 / (1 + math.exp(-(1 + sign * step)))
        losses.append(2.0 * float(kd_divergence(student, teacher, temperature, weight_B)))
    slope = (losses[0] - losses[1]) / (2 * step)
    gradient = raw_of(objective).grad
    assert gradient is not None
    factor = curriculum_lambda(progress, 0.5)
    assert float(gradient) == pytest.approx(-factor * slope, rel=1e-5, abs=1e-8)


def test_the_schedule_is_the_cosine_of_the_paper() -> None:
    # lambda = min + (max − min)/2 · (1 + cos((1 + n/E) π)) with min 0, max 1 and E = 10 of 240 epochs.
    for epoch in range(240):
        paper = 0.5 * (1 + math.cos((1 + min(epoch, 10) / 10) * math.pi))
        assert curriculum_lambda(epoch / 240) == pytest.approx(paper, abs=1e-12)
    assert [curriculum_lambda(progress, 0.0, 0.3) for progress in (0.0, 1.0)] == [0.3, 0.3]


def test_reversal_keeps_the_value_also_without_gradients() -> None:
    x = torch.tensor([0.1], requires_grad=True)
    assert torch.equal(reverse_gradient(x, 3.0), x)
    with torch.no_grad():
        assert torch.equal(reverse_gradient(x, 3.0), x)


def test_the_student_and_the_temperature_pull_in_opposite_directions() -> None:
    student, teacher, labels = random_logits(6, 5, 1)
    objective = build("ctkd", labels, 5)
    student, teacher = at_least_fp32(student).float(), at_least_fp32(teacher).float()
    student.requires_grad_()
    before = value_of(objective, student, teacher, labels)
    before.backward()
    assert student.grad is not None
    better = value_of(objective, (student - 0.1 * student.grad).detach(), teacher, labels)
    raw = raw_of(objective)
    assert raw.grad is not None
    raw.data -= 10 * raw.grad
    harder = value_of(objective, student, teacher, labels)
    assert better.item() < before.item() < harder.item()


def test_a_run_trains_and_saves_the_temperature(world: World, tmp_path: Path) -> None:
    run = distill(world.config(tmp_path / "run", method__name="ctkd", train__epochs=2), quiet=True)
    checkpoint, _ = load_checkpoint(run.folder / "checkpoints" / "last.ckpt")
    raw = checkpoint.part("task")[STATE]
    assert raw.shape == (1,)
    assert float(raw) != 1.0
    # Only weight decay moves it without the adversary.
    settings = {"objective__ctkd__max_lambda": 0.0, "optim__weight_decay": 0.0}
    still = distill(
        world.config(tmp_path / "still", method__name="ctkd", train__epochs=1, **settings), quiet=True
    )
    checkpoint, _ = load_checkpoint(still.folder / "checkpoints" / "last.ckpt")
    assert float(checkpoint.part("task")[STATE]) == 1.0


def test_the_defaults_are_those_of_the_authors() -> None:
    config = CtkdConfig()
    assert (config.weight, config.min_temperature, config.span, config.max_lambda) == (0.9, 1.0, 20.0, 1.0)
    assert config.curriculum == pytest.approx(10 / 240)
    assert config.temperature == pytest.approx(15.6212, abs=1e-4)
    spec = build("ctkd", torch.tensor([0, 1]), 2).specs["ctkd"]
    assert logit_temperature([spec]) == config.temperature
