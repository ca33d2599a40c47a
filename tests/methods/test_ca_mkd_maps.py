"""Weighted maps of several teachers beside a loop; how teachers classify them; and what is trained."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import settings as budget
from hypothesis import strategies as st
from torch import Tensor, nn

from richkd.config.schema import ModelConfig
from richkd.core.types import Output, Target
from richkd.export.student import save_student
from richkd.methods.ca_mkd_maps import ConfidentMaps, ConfidentMapsConfig, Projection, weighted_map_loss
from richkd.methods.term import Context, NetworkShapes, Setup
from richkd.models.build import build_network
from richkd.pipeline.assemble import assemble
from richkd.training.checkpoint import load_checkpoint
from richkd.training.run import distill
from tests.fixtures import CLASSES, World, make_teacher, refusal
from tests.methods.several import batch_of
from tests.reference import several_teachers as reference

CPU = torch.device("cpu")
LABELS = torch.tensor([0, 2, -1])


def random_map(channels: int, side: int, seed: int, images: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(images, channels, side, side, generator=generator, dtype=torch.float64)


@budget(max_examples=30, deadline=None)
@given(st.integers(1, 4), st.integers(1, 4), st.integers(1, 3), st.integers(0, 99))
def test_the_loss_equals_the_loop(images: int, count: int, side: int, seed: int) -> None:
    pairs = [
        (random_map(m + 1, side, seed + m, images), random_map(m + 1, side, seed + 50 + m, images))
        for m in range(count)
    ]
    weights_MB = torch.rand(count, images, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    expected = reference.ca_mkd_maps(pairs, weights_MB.tolist())
    assert float(weighted_map_loss(pairs, weights_MB)) == pytest.approx(expected, rel=1e-9)


def make(classifiers: tuple[nn.Module | None, ...], **settings: Any) -> tuple[ConfidentMaps, Output, Target]:
    """A term for teachers with maps of 5 and 6 channels, a student's output, and a target."""
    torch.manual_seed(0)
    teachers = (
        NetworkShapes(5, ((5, 2, 2),), classifier=classifiers[0]),
        NetworkShapes(6, ((6, 4, 4),), classifier=classifiers[1]),
    )
    setup = Setup(NetworkShapes(4, ((9, 8, 8), (4, 4, 4))), teachers, LABELS, 3, 0)
    term = ConfidentMaps(ConfidentMapsConfig(**settings), setup).double()
    logits = [3 * torch.randn(3, 3, dtype=torch.float64) for _ in range(2)]
    outputs = tuple(
        Output(z_BC, z_BC, (random_map(channels, side, 7),))
        for z_BC, channels, side in zip(logits, (5, 6), (2, 4), strict=True)
    )
    logs = tuple(z_BC.log_softmax(1) for z_BC in logits)
    student = Output(logits[0], logits[0], (random_map(9, 8, 1), random_map(4, 4, 2)))
    return term, student, Target(logits[0], outputs, (0.5, 0.5), logs=logs)


def projected(term: ConfidentMaps, student: Output) -> list[Tensor]:
    return [project(student.maps[-1]) for project in term.projections]


@pytest.mark.parametrize("known", [True, False])
def test_the_term_equals_the_published_steps(known: bool) -> None:
    torch.manual_seed(1)
    classifiers = (nn.Linear(5, 3).double(), nn.Linear(6, 3).double() if known else None)
    term, student, target = make(classifiers)
    value = term(student, target, batch_of(LABELS), Context()).value
    projections = projected(term, student)
    # A missing classifier leaves the teachers' own logits, for all teachers alike.
    logits = list(target.logs)
    if known:
        logits = [c(map_BFHW.mean((2, 3))) for c, map_BFHW in zip(classifiers, projections, strict=True) if c]
    weights = reference.ca_mkd_weights(logits, LABELS.tolist())
    pairs = [(r_BFHW, teacher.maps[0]) for r_BFHW, teacher in zip(projections, target.teachers, strict=True)]
    assert float(value.detach()) == pytest.approx(reference.ca_mkd_maps(pairs, weights), rel=1e-9)


def test_each_image_counts_by_its_weight() -> None:
    pairs = [(random_map(5, 2, 1), random_map(5, 2, 2))]
    weights_MB, weight_B = torch.ones(1, 3, dtype=torch.float64), torch.tensor([1.0, 0.0, 0.25])
    each = [
        float(weighted_map_loss([(s[i : i + 1], t[i : i + 1])], weights_MB[:, :1]))
        for s, t in pairs
        for i in range(3)
    ]
    expected = sum(w * loss for w, loss in zip(weight_B.tolist(), each, strict=True)) / 3
    assert float(weighted_map_loss(pairs, weights_MB, weight_B)) == pytest.approx(expected, rel=1e-9)


def test_a_projection_reaches_larger_and_smaller_maps() -> None:
    for side in (2, 4, 9):
        maps_BFHW = Projection(4, (5, side, side), relu=True)(random_map(4, 4, 0).float())
        assert maps_BFHW.shape == (3, 5, side, side)
        assert float(maps_BFHW.min()) >= 0
    assert float(Projection(4, (5, 4, 4), relu=False)(random_map(4, 4, 0).float()).min()) < 0


def test_a_part_of_one_image_with_one_position_is_refused() -> None:
    projection = Projection(4, (5, 1, 1), relu=True)
    assert "two images" in refusal(projection, random_map(4, 4, 0, images=1).float()).rule
    assert projection.eval()(random_map(4, 4, 0, images=1).float()).shape == (1, 5, 1, 1)


def test_teachers_are_not_trained_and_receive_no_gradient() -> None:
    classifiers = (
        nn.Linear(5, 3).double().requires_grad_(False),
        nn.Linear(6, 3).double().requires_grad_(False),
    )
    term, student, target = make(classifiers)
    assert {name.split(".")[0] for name in term.state_dict()} == {"projections"}
    for output in target.teachers:
        output.maps[0].requires_grad_()
    student.maps[-1].requires_grad_()
    term(student, target, batch_of(LABELS), Context()).value.backward()
    assert student.maps[-1].grad is not None
    assert all(output.maps[0].grad is None for output in target.teachers)
    assert all(parameter.grad is not None for parameter in term.parameters())
    assert all(parameter.grad is None for classifier in classifiers for parameter in classifier.parameters())


def test_gradients_of_the_loss_are_right() -> None:
    teacher, weights_MB = random_map(2, 2, 1), torch.tensor([[0.25, 0.5, 1.0]]).double()
    student = random_map(2, 2, 0).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: weighted_map_loss([(x, teacher)], weights_MB), (student,))


def test_the_whole_method_runs_with_two_teachers(world: World, tmp_path: Path) -> None:
    make_teacher(tmp_path / "second", seed=9)
    settings: dict[str, Any] = {
        "method__name": "ca-mkd",
        "objective": {"ca-mkd-maps": {"target": "teacher"}},
        "teachers__2__name": f"local-dir:{tmp_path / 'second'}",
        "train__epochs": 1,
    }
    run = distill(world.config(tmp_path / "run", **settings), quiet=True)
    assert list(run.summary["objective"]) == ["ce", "ca-mkd", "ca-mkd-maps"]
    checkpoint, _ = load_checkpoint(run.folder / "checkpoints" / "last.ckpt")
    kept = [name for name in checkpoint.part("task") if name.startswith("objective.terms.ca-mkd-maps.")]
    assert kept
    assert all(name.startswith("objective.terms.ca-mkd-maps.projections.") for name in kept)


def test_a_clip_has_no_maps(world: World, tmp_path: Path) -> None:
    settings = {"objective": [{"ca-mkd-maps": {"target": "clip"}}], "clip__name": f"outputs:{world.clip}"}
    config = world.config(tmp_path / "run", teachers__1__name=None, **settings)
    assert "objective.ca-mkd-maps" in refusal(assemble, config, CPU).rule


def test_a_transformer_and_a_convolutional_network_teach_together(world: World, tmp_path: Path) -> None:
    torch.manual_seed(0)
    vit = build_network(ModelConfig(name="test_vit", size=160), len(CLASSES), role="teacher")
    save_student(tmp_path / "vit", vit, CLASSES, 1.0, {})
    settings: dict[str, Any] = {
        "objective": [{"ce": None}, {"ca-mkd-maps": {"target": "teacher", "relu": False, "weight": 5.0}}],
        "teachers__1__name": f"local-dir:{world.teacher}",
        "teachers__2__name": f"local-dir:{tmp_path / 'vit'}",
        "optim__name": "adamw",
        "optim__lr": 2e-3,
    }
    run = distill(world.config(tmp_path / "run", **settings), quiet=True)
    losses = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    assert losses[-1]["train/ca-mkd-maps"] < losses[0]["train/ca-mkd-maps"]
