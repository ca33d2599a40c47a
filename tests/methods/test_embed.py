"""Feature regression beside a loop, its heads, and targets of several teachers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import settings as budget
from hypothesis import strategies as st

from richkd.methods.embed import Distance, Embed, EmbedConfig, embed_loss, projection
from richkd.methods.term import Context
from richkd.training.checkpoint import load_checkpoint
from richkd.training.run import distill
from tests.fixtures import WIDTH, World
from tests.methods.feature_records import batch, build, output, randn, target
from tests.reference import feature_losses as slow

DISTANCES: tuple[Distance, ...] = ("cosine", "mse")


@budget(max_examples=30, deadline=None)
@given(st.integers(1, 4), st.integers(1, 5), st.sampled_from(DISTANCES), st.integers(0, 99))
def test_it_equals_the_loop(images: int, width: int, loss: Distance, seed: int) -> None:
    student, teacher = randn(images, width, seed=seed), randn(images, width, seed=seed + 1)
    expected = slow.embed(student, teacher, loss)
    assert float(embed_loss(student, teacher, loss)) == pytest.approx(expected, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize(("loss", "theirs"), [("cosine", "CosineEmbeddingLoss"), ("mse", "MSELoss")])
def test_it_equals_pytorchs_loss(loss: Distance, theirs: str) -> None:
    student, teacher = randn(5, 4, seed=0), randn(5, 4, seed=1)
    more = (torch.ones(5),) if loss == "cosine" else ()
    expected = getattr(torch.nn, theirs)()(student, teacher, *more)
    assert float(embed_loss(student, teacher, loss)) == pytest.approx(float(expected), rel=1e-9)


@pytest.mark.parametrize("loss", DISTANCES)
def test_gradients_are_right_and_reach_the_student_only(loss: Distance) -> None:
    student, teacher = randn(3, 4, seed=0).requires_grad_(), randn(3, 4, seed=1).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: embed_loss(x, teacher, loss), (student,))
    embed_loss(student, teacher, loss).backward()  # type: ignore[no-untyped-call]
    assert teacher.grad is None


def test_a_feature_of_length_zero_has_no_gradient() -> None:
    student = torch.tensor([[0.0, 0.0], [1.0, 1.0]], requires_grad=True)
    value = embed_loss(student, torch.tensor([[1.0, 0.0], [0.0, 0.0]]))
    (gradient,) = torch.autograd.grad(value, student)
    assert value.item() == 1.0
    assert torch.equal(gradient, torch.zeros(2, 2))


@pytest.mark.parametrize("loss", DISTANCES)
@pytest.mark.parametrize("head", ["linear", "mlp"])
def test_each_teacher_has_a_head_and_its_weight(loss: Distance, head: str) -> None:
    student, first, second = output(3, 4, seed=0), output(3, 5, seed=3), output(3, 7, seed=6)
    config = EmbedConfig.model_validate({"loss": loss, "head": head})
    term = build(Embed, config, student, first, second)
    value = term(student, target(first, second, weights=(0.75, 0.25)), batch(3), Context()).value
    each = [
        slow.embed(project(student.feats_BF), teacher.feats_BF, loss)
        for project, teacher in zip(term.heads, (first, second), strict=True)  # type: ignore[arg-type]
    ]
    assert value.item() == pytest.approx(0.75 * each[0] + 0.25 * each[1], rel=1e-9)


def test_the_hidden_layer_has_the_teachers_width() -> None:
    widths = [tuple(parameter.shape) for parameter in projection(4, 7, mlp=True).parameters()]
    assert widths == [(7, 4), (7,), (7, 7), (7,)]


def test_a_run_follows_clip_and_all_teachers_and_saves_its_heads(world: World, tmp_path: Path) -> None:
    objective = [{"ce": None}, {"embed": {"target": "fused"}}, {"clip": {"term": "embed", "target": "clip"}}]
    settings = {"teachers__1__name": f"local-dir:{world.teacher}", "clip__name": f"outputs:{world.clip}"}
    config = world.config(tmp_path / "run", objective=objective, train__epochs=1, **settings)
    run = distill(config, quiet=True)
    assert list(run.summary["objective"]) == ["ce", "embed", "clip"]
    checkpoint, _ = load_checkpoint(run.folder / "checkpoints" / "last.ckpt")
    heads = {
        name.removeprefix("objective.terms."): tuple(tensor.shape)
        for name, tensor in checkpoint.part("task").items()
        if name.startswith("objective.") and name.endswith("weight")
    }
    assert heads == {
        "embed.heads.0.weight": (64, 64),
        "embed.heads.1.weight": (WIDTH, 64),
        "clip.heads.0.weight": (WIDTH, 64),
    }
