"""The objective of a recipe in a loop of the user's own, compared with formulas written out."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from richkd.config.schema import FusionConfig
from richkd.core.errors import ConfigError, ModelError
from richkd.core.types import Output
from richkd.loops.distiller import Distiller
from tests.fixtures import refusal

SIZE, CLASSES = 8, 5


def linear(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * SIZE * SIZE, CLASSES)).double()


def small(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return timm.create_model("cifar_resnet8", num_classes=CLASSES)


def cosines(pixels_B3HW: Tensor) -> Tensor:
    return pixels_B3HW.flatten(1)[:, :CLASSES].to(torch.float64) / 10


@pytest.fixture
def batch() -> tuple[Tensor, Tensor]:
    torch.manual_seed(9)
    return torch.rand(6, 3, SIZE, SIZE, dtype=torch.float64), torch.arange(6) % CLASSES


def kl(teacher_BC: Tensor, student_BC: Tensor, temperature: float) -> Tensor:
    p, q = (teacher_BC / temperature).softmax(1), (student_BC / temperature).log_softmax(1)
    return temperature**2 * (p * (p.log() - q)).sum(1).mean()


def test_kd_is_the_weighted_divergence_from_the_teacher(batch: tuple[Tensor, Tensor]) -> None:
    student, teacher = linear(0), linear(1)
    distiller = Distiller(
        student, [teacher], classes=CLASSES, size=SIZE, objective={"kd": {"temperature": 4, "weight": 3}}
    ).double()
    losses = distiller(*batch)
    expected = 3 * kl(teacher(batch[0]), student(batch[0]), 4.0)
    torch.testing.assert_close(losses.terms["kd"], expected, rtol=1e-9, atol=0)
    torch.testing.assert_close(
        losses.total, expected + nn.functional.cross_entropy(student(batch[0]), batch[1]), rtol=1e-9, atol=0
    )


def test_the_fused_target_has_the_shares_and_the_scale_of_the_paper(batch: tuple[Tensor, Tensor]) -> None:
    teacher = linear(1)
    distiller = Distiller(
        linear(0),
        [teacher],
        clip=cosines,
        classes=CLASSES,
        size=SIZE,
        objective=[{"kd": {"temperature": 3}}, {"kd-clip": {"term": "kd", "target": "clip"}}],
        fusion={"alpha": 0.6},
    )
    targets = distiller.targets(*batch)
    logs = [teacher(batch[0]).log_softmax(1), (100 * cosines(batch[0])).log_softmax(1)]
    fused_BC = 0.6 * logs[0] + 0.4 * logs[1]
    torch.testing.assert_close(
        targets["fused"].logits_BC.softmax(1), fused_BC.softmax(1), rtol=1e-6, atol=1e-9
    )
    torch.testing.assert_close(targets["clip"].logits_BC.softmax(1), logs[1].exp(), rtol=1e-6, atol=1e-9)


def test_a_fusion_that_is_fitted_asks_for_held_out_images(batch: tuple[Tensor, Tensor]) -> None:
    distiller = Distiller(
        linear(0), [linear(1), linear(2)], classes=CLASSES, size=SIZE, fusion={"preset": "default"}
    )
    with pytest.raises(ConfigError, match="fitted on held-out images"):
        distiller(*batch)
    distiller.fit([batch, batch])
    losses = distiller(*batch).total
    assert torch.isfinite(losses)
    # Batches have the forms of those that are trained on.
    pixels_B3HW, labels_B = batch
    positions_B = torch.arange(len(labels_B))
    forms = [(pixels_B3HW, labels_B, positions_B), {"pixel_values": pixels_B3HW, "labels": labels_B}]
    distiller.fit(forms)
    assert torch.equal(distiller(*batch).total, losses)


def test_teachers_are_evaluated_and_are_no_part_of_the_state(batch: tuple[Tensor, Tensor]) -> None:
    teacher = small(1).train()
    before = {name: tensor.clone() for name, tensor in teacher.state_dict().items()}
    distiller = Distiller(small(0), [teacher], classes=CLASSES, size=SIZE)
    distiller.train()
    distiller(batch[0].float(), batch[1]).total.backward()
    assert all(torch.equal(tensor, before[name]) for name, tensor in teacher.state_dict().items())
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert all(name.startswith(("student.", "objective.")) for name in distiller.state_dict())


def test_teachers_are_moved_with_the_module(batch: tuple[Tensor, Tensor]) -> None:
    teacher, clip = linear(1).float(), nn.Sequential(nn.Flatten(), nn.Linear(3 * SIZE * SIZE, CLASSES))
    distiller = Distiller(
        linear(0).float(), [teacher], clip=clip, classes=CLASSES, size=SIZE, objective=[{"kd": {}}]
    )
    assert distiller.double() is distiller
    assert {p.dtype for model in (teacher, clip) for p in model.parameters()} == {torch.float64}
    assert torch.isfinite(distiller(*batch).total)


@pytest.mark.parametrize("term", ["at", "fitnet", "sp", "rkd", "embed", "reviewkd", "simkd"])
def test_terms_on_features_and_maps(term: str, batch: tuple[Tensor, Tensor]) -> None:
    if term == "simkd":
        with pytest.raises(ConfigError, match="classifier"):
            Distiller(small(0), [small(1)], classes=CLASSES, size=SIZE, method=term)
        return
    distiller = Distiller(small(0), [small(1)], classes=CLASSES, size=SIZE, method=term, steps=10)
    losses = distiller(batch[0].float(), batch[1])
    losses.total.backward()
    distiller.after_step()
    assert torch.isfinite(losses.total)


def test_terms_that_keep_rows_need_labels_and_positions(batch: tuple[Tensor, Tensor]) -> None:
    few = {"num_negatives": 2, "embed_dim": 4}
    with pytest.raises(ConfigError, match="keeps a row for each training image"):
        Distiller(small(0), [small(1)], classes=CLASSES, size=SIZE, method="crd", objective={"crd": few})
    labels = torch.arange(20) % CLASSES
    distiller = Distiller(
        small(0), [small(1)], classes=CLASSES, size=SIZE, method="crd", objective={"crd": few}, labels=labels
    )
    pixels_B3HW, index_B = batch[0].float(), torch.tensor([3, 9, 11, 4, 19, 0])
    with pytest.raises(ConfigError, match="third argument"):
        distiller(pixels_B3HW, labels[index_B])
    before = {
        name: t.clone() for name, t in distiller.state_dict().items() if len(t.shape) == 2 and len(t) == 20
    }
    assert before
    distiller(pixels_B3HW, labels[index_B], index_B).total.backward()
    distiller.after_step()
    # The banks are sorted by class.
    places = labels.argsort(stable=True).argsort()[index_B].sort().values
    for name, rows in before.items():
        changed = (distiller.state_dict()[name] != rows).flatten(1).any(dim=1)
        assert torch.equal(changed.nonzero().flatten(), places), name


def test_features_of_models_that_have_none_are_refused() -> None:
    with pytest.raises(ConfigError, match="compares features"):
        Distiller(linear(0).float(), [small(1)], classes=CLASSES, size=SIZE, method="embed")
    with pytest.raises(ModelError, match="reads intermediate maps"):
        Distiller(small(0), [linear(1).float()], classes=CLASSES, size=SIZE, method="at")


def test_functions_outputs_and_objects_with_logits_are_models(batch: tuple[Tensor, Tensor]) -> None:
    teacher = linear(1)
    forms = (
        lambda pixels: teacher(pixels.double()),
        lambda pixels: Output(teacher(pixels.double()), pixels.flatten(1)),
        lambda pixels: SimpleNamespace(logits=teacher(pixels.double())),
    )
    totals = [
        Distiller(linear(0), [form], classes=CLASSES, size=SIZE).double()(*batch).total.item()
        for form in forms
    ]
    assert totals[0] == totals[1] == totals[2]


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (lambda pixels: "logits", "must return logits"),
        (lambda pixels: pixels, "must return logits"),
        (lambda pixels: pixels.mean((2, 3)), "one logit for each of 5 classes"),
        (lambda pixels: pixels @ torch.zeros(99, 1), "must process images of shape"),
    ],
)
def test_models_that_cannot_teach_are_refused_before_training(broken: object, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        Distiller(small(0), [broken], classes=CLASSES, size=SIZE)  # type: ignore[list-item]


def test_settings_are_checked_as_in_a_recipe() -> None:
    with pytest.raises(ConfigError, match=r"temprature"):
        Distiller(small(0), [small(1)], classes=CLASSES, size=SIZE, objective={"kd": {"temprature": 4}})
    with pytest.raises(ConfigError, match=r"fusion"):
        Distiller(small(0), [small(1)], classes=CLASSES, size=SIZE, fusion={"alhpa": 0.5})
    with pytest.raises(ConfigError, match="teacher"):
        Distiller(small(0), classes=CLASSES, size=SIZE, method="kd")


@pytest.mark.parametrize("name", ["labeled", "unlabeled", "entropy", "control", "features", "ood_quantile"])
def test_settings_of_the_fusion_of_a_run_are_refused_by_name(name: str) -> None:
    values: dict[str, Any] = {
        "labeled": {"alpha": 0.1},
        "unlabeled": {"alpha": 0.1},
        "entropy": 0.5,
        "control": "teacher-only",
        "features": "standardized",
        "ood_quantile": 0.2,
    }
    known = {"preset", "scale", "mixing", "alpha", "feature_alpha", "weights"}
    assert set(FusionConfig.model_fields) == known | set(values)
    error = refusal(
        Distiller,
        linear(0),
        [linear(1)],
        clip=cosines,
        classes=CLASSES,
        size=SIZE,
        fusion={name: values[name]},
    )
    assert f"'fusion.{name}' belongs to a run from settings" in error.rule


@pytest.mark.parametrize(
    ("objective", "setting"),
    [
        ({"dkd": {}}, "dkd.warmup"),
        ({"ctkd": {}}, "ctkd.curriculum"),
        ({"kd": {"annealing": "cosine"}}, "kd.annealing"),
        ({"soft": {"term": "kd", "annealing": "linear"}}, "soft.annealing"),
    ],
)
def test_terms_that_change_need_the_number_of_steps(
    objective: dict[str, Any], setting: str, batch: tuple[Tensor, Tensor]
) -> None:
    def distiller(**options: Any) -> Distiller:
        models = (linear(0), [linear(1)])
        return Distiller(*models, classes=CLASSES, size=SIZE, objective=[objective], **options).double()

    error = refusal(distiller(), *batch)
    assert f"objective.{setting}" in error.rule
    assert "steps=" in str(error.fix)
    planned = distiller()
    refusal(planned.plan, None)
    planned.plan(10)
    for ready in (planned, distiller(steps=10)):
        ready.step = 4
        assert float(ready(*batch).total.detach()) > 0
    for steps in (0, -3):
        assert refusal(distiller, steps=steps).got == f"steps={steps}"


def test_terms_that_do_not_change_need_no_number_of_steps(batch: tuple[Tensor, Tensor]) -> None:
    objective = [{"dkd": {"warmup": 0}}, {"ctkd": {"curriculum": 0}}, {"kd": {}}]
    distiller = Distiller(linear(0), [linear(1)], classes=CLASSES, size=SIZE, objective=objective).double()
    assert all(float(value.detach()) > 0 for value in distiller(*batch).terms.values())


def test_parts_of_a_step_are_those_of_one_batch(batch: tuple[Tensor, Tensor]) -> None:
    """With gradient accumulation, each image has its own negatives, and Z is estimated once."""

    def with_features(seed: int) -> Callable[[Tensor], Output]:
        network = linear(seed)
        return lambda pixels: Output(network(pixels.double()), pixels.double().flatten(1))

    labels, index_B = torch.arange(30) % CLASSES, torch.tensor([3, 9, 11, 4, 19, 0])
    pixels_B3HW, parts = batch[0], (slice(0, 2), slice(2, 6))
    few = {"num_negatives": 7, "embed_dim": 4}
    whole, divided = (
        Distiller(
            with_features(0),
            [with_features(1)],
            classes=CLASSES,
            size=SIZE,
            objective=[{"crd": few}],
            labels=labels,
        ).double()
        for _ in range(2)
    )
    for step in range(3):
        expected = whole(pixels_B3HW, labels[index_B], index_B).terms["crd"]
        losses = [divided(pixels_B3HW[p], labels[index_B[p]], index_B[p]).terms["crd"] for p in parts]
        if step:
            mean = (2 * losses[0] + 4 * losses[1]) / 6
            torch.testing.assert_close(mean, expected, rtol=1e-6, atol=0)
        else:
            # Z of the first batch differs from that of its first part, which is kept.
            known = divided.state_dict()["objective.terms.crd.memory.log_normalizers"]
            whole.state_dict()["objective.terms.crd.memory.log_normalizers"].copy_(known)
        divided.eval()
        divided(pixels_B3HW, labels[index_B], index_B)  # a batch that is not trained on does not count
        divided.train()
        whole.after_step()
        divided.after_step()


def test_weights_that_change_follow_the_planned_steps(batch: tuple[Tensor, Tensor]) -> None:
    distiller = Distiller(
        linear(0), [linear(1)], classes=CLASSES, size=SIZE, steps=4, objective={"kd": {"annealing": "linear"}}
    ).double()
    seen = []
    for _ in range(4):
        seen.append(distiller(*batch).terms["kd"].item())
        distiller.after_step()
    assert seen == pytest.approx([seen[0] * share for share in (1, 0.75, 0.5, 0.25)])
