"""Standardized logits beside loops and an independent implementation, and where the setting is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import settings as budget
from hypothesis import strategies as st

from richkd.config.choices import TERMS
from richkd.config.loading import load_config
from richkd.core.errors import ConfigError
from richkd.losses.logits import kd_divergence
from richkd.methods.objective import read_objective
from richkd.methods.standardize import standardize
from richkd.methods.term import LogitConfig
from richkd.training.run import distill
from tests.fixtures import World, make_images, make_teacher, refusal
from tests.methods.records import build, random_logits, value_of
from tests.reference import logit_terms as slow

NAMES = sorted(name for name in TERMS if issubclass(TERMS[name].Config, LogitConfig))
FOUR: dict[str, Any] = {"data.path": "photos", "student.name": "resnet18", "method.name": "kd"}


@budget(max_examples=50, deadline=None)
@given(st.integers(1, 5), st.integers(3, 9), st.floats(1e-3, 1e3), st.integers(0, 99))
def test_it_equals_the_loop(images: int, classes: int, scale: float, seed: int) -> None:
    logits = scale * random_logits(images, classes, seed)[0]
    expected = torch.tensor(slow.standardize(logits), dtype=torch.float64)
    assert torch.allclose(standardize(logits), expected, rtol=1e-9, atol=1e-12)


@budget(max_examples=30, deadline=None)
@given(st.floats(0.01, 100), st.floats(-50, 50), st.integers(0, 99))
def test_scale_and_offset_do_not_matter(scale: float, offset: float, seed: int) -> None:
    logits = random_logits(4, 6, seed)[0]
    assert torch.allclose(standardize(scale * logits + offset), standardize(logits), rtol=1e-4, atol=1e-4)


def test_kd_equals_an_independent_implementation() -> None:
    mid_level = pytest.importorskip("torchdistill.losses.mid_level")
    student, teacher, labels = random_logits(6, 5, 0)
    theirs = mid_level.LogitStdKDLoss(
        "layer", "output", "layer", "output", temperature=2.0, alpha=0.1, beta=9
    )
    io = [{"layer": {"output": logits}} for logits in (student, teacher)]
    objective = build("kd", labels, 5, standardize=True, temperature=2.0, weight=9).double()
    cross_entropy = torch.nn.functional.cross_entropy(student, labels)
    value = value_of(objective, student, teacher, labels) + 0.1 * cross_entropy
    assert float(value) == pytest.approx(float(theirs(*io, targets=labels)), rel=1e-9)


@pytest.mark.parametrize("name", NAMES)
def test_the_term_sees_z_scores(name: str) -> None:
    student, teacher, labels = random_logits(6, 5, 1)
    plain, wrapped = (build(name, labels, 5, standardize=on).double() for on in (False, True))
    expected = value_of(plain, standardize(student), standardize(teacher), labels)
    assert torch.equal(value_of(wrapped, student, teacher, labels), expected)
    assert not torch.isclose(value_of(plain, student, teacher, labels), expected, rtol=1e-3)


def test_other_terms_see_the_logits_themselves() -> None:
    config = {**FOUR, "objective.kd.standardize": "true", "objective.second.term": "kd"}
    specs = {spec.label: spec.standardized for spec in read_objective(load_config(None, config))}
    assert specs == {"ce": False, "kd": True, "second": False}


def test_equal_logits_are_taught_with_a_finite_step() -> None:
    student, teacher, labels = torch.zeros(2, 4), torch.eye(4)[:2], torch.tensor([0, 1])
    student.requires_grad_()
    objective = build("kd", labels, 4, standardize=True, weight=1.0, temperature=2.0)
    value_of(objective, student, teacher, labels).backward()
    # The gradient of plain KD with the z-scores of the teacher.
    again = torch.zeros(2, 4, requires_grad=True)
    kd_divergence(again, standardize(teacher), 2.0).backward()  # type: ignore[no-untyped-call]
    assert student.grad is not None
    assert again.grad is not None
    assert torch.allclose(student.grad, again.grad, atol=1e-6)


@pytest.mark.parametrize(
    ("settings", "label"),
    [
        ({"objective.ce.standardize": "true"}, "ce"),
        ({"objective.at.standardize": "true"}, "at"),
        ({"objective.at.standardize": "false"}, "at"),
        ({"objective.contrastive.standardize": "true"}, "contrastive"),
        ({"objective.own.term": "at", "objective.own.standardize": "true"}, "own"),
    ],
)
def test_terms_that_do_not_compare_logits_refuse_it(settings: dict[str, str], label: str) -> None:
    error = refusal(read_objective, load_config(None, FOUR | settings))
    assert f"'objective.{label}.standardize' belongs to terms that compare logits with a target" in error.rule
    assert f"objective.{label}.standardize" in str(error.fix)


def test_two_classes_are_refused(tmp_path: Path) -> None:
    make_images(tmp_path / "images", ("ant", "bee"))
    make_teacher(tmp_path / "teacher", ("ant", "bee"))
    world = World(tmp_path / "images", tmp_path / "clip.npz", tmp_path / "teacher")
    config = world.config(tmp_path / "run", method__name="kd", objective__kd__standardize=True)
    error = refusal(distill, config, quiet=True)
    assert "'objective.kd.standardize' needs three classes or more" in error.rule
    assert error.got == "2 classes"
    with pytest.raises(ConfigError, match="three classes"):
        build("dist", torch.tensor([0, 1]), 2, standardize=True)
