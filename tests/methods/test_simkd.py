"""SimKD: its loss beside a loop, the student that it makes, and which teachers and students are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from richkd.config.schema import ModelConfig
from richkd.core.types import Batch, Output, Target
from richkd.export.student import load_student, save_student
from richkd.methods.simkd import ReusedClassifierTerm, projection_loss
from richkd.methods.term import Context, NetworkShapes, Setup, TargetConfig
from richkd.models.build import build_network
from richkd.pipeline.assemble import Parts, assemble
from richkd.training.run import distill
from tests.fixtures import CLASSES, World, make_teacher, refusal
from tests.reference import feature_maps as slow

CPU = torch.device("cpu")


class TwoLayers(nn.Module):
    """A teacher whose classifier has two layers."""

    num_features = 4

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3, 2)
        self.fc = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, num_classes))

    def forward_features(self, x: Tensor) -> Tensor:
        return self.stem(x)  # type: ignore[no-any-return]

    def forward_intermediates(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        map_BFHW = self.stem(x)
        return map_BFHW, [map_BFHW]

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        feats_BF = x.mean(dim=(2, 3))
        return feats_BF if pre_logits else self.fc(feats_BF)

    def get_classifier(self) -> nn.Module:
        return self.fc


def random_map(channels: int, side: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(3, channels, side, side, generator=generator, dtype=torch.float64)


def parts_of(world: World, out: Path, **changes: Any) -> Parts:
    return assemble(world.config(out, **{"method__name": "simkd", **changes}), CPU)


def make_network_teacher(folder: Path, name: str, size: int) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        network = build_network(ModelConfig(name=name, size=size), len(CLASSES), role="teacher")
    save_student(folder, network, CLASSES, 1.0, {})


@pytest.mark.parametrize("weights", [None, [1.0, 0.0, 0.3]])
def test_it_equals_the_loop(weights: list[float] | None) -> None:
    student, teacher = random_map(2, 3, 0), random_map(2, 3, 1)
    weight_B = None if weights is None else torch.tensor(weights, dtype=torch.float64)
    pairs = zip(slow.maps(student), slow.maps(teacher), weights or [1.0] * 3, strict=True)
    expected = sum(weight * slow.mean_square(a, b) for a, b, weight in pairs) / 3
    assert float(projection_loss(student, teacher, weight_B)) == pytest.approx(expected, rel=1e-9)


def test_gradients_are_right_and_reach_the_student_only() -> None:
    student, teacher = random_map(2, 3, 0).requires_grad_(), random_map(2, 3, 1).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: projection_loss(x, teacher), (student,))
    projection_loss(student, teacher).backward()  # type: ignore[no-untyped-call]
    assert teacher.grad is None
    assert projection_loss(student.bfloat16(), teacher.bfloat16()).dtype == torch.float32


@pytest.mark.parametrize("averaged", [True, False])
def test_maps_are_compared_at_the_smaller_size_or_pooled(averaged: bool) -> None:
    teacher_shapes = NetworkShapes(4, ((4, 2, 2),), averaged=averaged)
    setup = Setup(NetworkShapes(4, ((4, 6, 6),)), (teacher_shapes,), torch.tensor([0, 1]), 2, 0)
    s_map, t_map = random_map(4, 6, 0), random_map(4, 2, 1)
    student = Output(torch.zeros(3, 2), s_map.mean(dim=(2, 3)), (s_map,))
    target = Target(torch.zeros(3, 2), (Output(torch.zeros(3, 2), t_map.amax(dim=(2, 3)), (t_map,)),), (1.0,))
    batch = Batch("train", torch.arange(3), torch.zeros(3, 2, 2, 3), torch.tensor([0, 1, -1]))
    value = ReusedClassifierTerm(TargetConfig(), setup)(student, target, batch, Context()).value
    pooled = [slow.pooled(image, 2) for image in slow.maps(s_map)]
    expected = sum(slow.mean_square(a, b) for a, b in zip(pooled, slow.maps(t_map), strict=True)) / 3
    if not averaged:
        expected = float((s_map.mean(dim=(2, 3)) - t_map.amax(dim=(2, 3))).square().mean())
    assert float(value) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("objective", ["with labels", "alone"])
def test_the_saved_student_has_the_teachers_classifier_and_loads_with_timm(
    world: World, tmp_path: Path, objective: str
) -> None:
    settings: dict[str, Any] = {"method__name": "simkd", "train__epochs": 2}
    if objective == "alone":
        settings["objective"] = [{"simkd": {"target": "teacher"}}]
        settings |= {"method__name": None, "teachers__1__name": f"local-dir:{world.teacher}"}
    run = distill(world.config(tmp_path / "run", **settings), quiet=True)
    teacher, student = load_student(world.teacher), load_student(run.folder)
    theirs, ours = (one.network.model.get_classifier() for one in (teacher, student))
    assert torch.equal(theirs.weight, ours.weight)
    assert torch.equal(theirs.bias, ours.bias)
    model = timm.create_model(f"local-dir:{run.folder / 'student'}", pretrained=True).eval()
    pixels = torch.rand(2, 3, 16, 16)
    with torch.no_grad():
        assert torch.equal(model(pixels), student.network(pixels).logits_BC)
    last = load_student(run.folder, "last").network
    with torch.no_grad():
        assert torch.equal(last(pixels).logits_BC, student.network(pixels).logits_BC)


def test_a_saved_student_is_a_teacher_again(world: World, tmp_path: Path) -> None:
    run = distill(world.config(tmp_path / "run", method__name="simkd", train__epochs=1), quiet=True)
    name = f"local-dir:{run.folder / 'student'}"
    parts = assemble(world.config(tmp_path / "next", method__name="simkd", teachers__1__name=name), CPU)
    assert parts.student.feature_width == 64
    error = refusal(parts_of, world, tmp_path / "again", student__name=name, student__size=None)
    assert "adds a projector to the student" in error.rule
    assert "reused classifier" in str(error.got)


def test_the_student_keeps_its_weights_and_trains_what_it_uses(world: World, tmp_path: Path) -> None:
    for name in ("cifar_resnet8", "cifar_wrn_16_2", "test_vit"):
        size = {"student__size": 64} if name == "test_vit" else {}
        plain = parts_of(world, tmp_path / "a", method__name="kd", student__name=name, **size).student.model
        parts = parts_of(world, tmp_path / "b", student__name=name, **size)
        backbone = parts.student.model.backbone.state_dict()
        assert backbone
        assert all(torch.equal(tensor, plain.state_dict()[key]) for key, tensor in backbone.items())
        assert not any(parameter.requires_grad for parameter in parts.student.model.fc.parameters())
        pixels = torch.rand(2, 3, parts.student.size, parts.student.size)
        parts.student.train()
        parts.student(pixels).logits_BC.sum().backward()
        for key, parameter in parts.student.named_parameters():
            assert parameter.requires_grad == (parameter.grad is not None), key


def test_the_projector_is_a_function_of_the_seed(world: World, tmp_path: Path) -> None:
    first, again, other = (
        parts_of(world, tmp_path / "run", train__seed=seed).student.model.projector[0].weight
        for seed in (0, 0, 1)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize(("name", "size"), [("test_vit", 160), ("cifar_wrn_16_2", 16), ("cifar_vgg8", 16)])
def test_teachers_of_any_kind_are_followed(world: World, tmp_path: Path, name: str, size: int) -> None:
    make_network_teacher(tmp_path / "teacher", name, size)
    settings = {"teachers__1__name": f"local-dir:{tmp_path / 'teacher'}", "train__epochs": 1}
    run = distill(world.config(tmp_path / "run", method__name="simkd", **settings), quiet=True)
    assert (
        load_student(run.folder).network.feature_width
        == load_student(tmp_path / "teacher").network.feature_width
    )


def test_what_cannot_be_reused_is_refused(world: World, tmp_path: Path) -> None:
    make_teacher(tmp_path / "second", seed=9)
    second = {"teachers__2__name": f"local-dir:{tmp_path / 'second'}"}
    assert "one vision teacher" in refusal(parts_of, world, tmp_path / "run", **second).rule
    both = [{"simkd": {"target": "teacher-1"}}, {"more": {"term": "simkd", "target": "teacher-2"}}]
    first = {"teachers__1__name": f"local-dir:{world.teacher}"}
    error = refusal(parts_of, world, tmp_path / "run", method__name=None, objective=both, **first, **second)
    assert error.rule == "A student can reuse the classifier of one teacher only"
    callable_name = f"{__name__}:TwoLayers"
    error = refusal(parts_of, world, tmp_path / "run", student__name=callable_name)
    assert "objective.simkd adds a projector to the student" in error.rule
    teacher = build_network(ModelConfig(name=callable_name, size=16), len(CLASSES), role="teacher")
    save_student(tmp_path / "layers", teacher, CLASSES, 1.0, {})
    error = refusal(parts_of, world, tmp_path / "run", teachers__1__name=f"local-dir:{tmp_path / 'layers'}")
    assert "must be one linear layer" in error.rule


def test_outputs_without_a_network_are_refused(world: World, tmp_path: Path) -> None:
    objective = [{"simkd": {"target": "clip"}}]
    error = refusal(
        parts_of,
        world,
        tmp_path / "run",
        method__name=None,
        objective=objective,
        clip__name=f"outputs:{world.clip}",
        teachers__1__name=None,
    )
    assert "objective.simkd" in error.rule
