"""What all terms on features and maps have in common: weights, labels, precision, several teachers, parts."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from richkd.config.choices import TERMS
from richkd.core.types import Output, Target
from richkd.data.mixup import Mix
from richkd.methods.objective import Objective, TermSpec
from richkd.methods.term import Context, Term
from tests.methods.feature_records import CLASSES, batch, build, output, shapes, target

NAMES = ("at", "fitnet", "vid", "sp", "rkd", "pkt", "embed")
ON_FEATURES = ("rkd", "pkt", "embed")
COMPARING = ("sp", "rkd", "pkt")
STUDENT_MAPS, TEACHER_MAPS = ((2, 8, 8), (3, 4, 4), (4, 2, 2)), ((5, 16, 16), (6, 4, 4), (7, 4, 4))
# The variants of settings that change what is computed.
CASES: list[tuple[str, dict[str, Any]]] = [
    *((name, {}) for name in NAMES),
    *((name, {"stages": "all"}) for name in ("fitnet", "sp")),
    *(("embed", settings) for settings in ({"loss": "mse"}, {"head": "mlp"})),
]


def networks(images: int = 6) -> tuple[Output, Output]:
    return output(images, 4, STUDENT_MAPS, seed=0), output(images, 5, TEACHER_MAPS, seed=50)


def make(name: str, settings: dict[str, Any], *outputs: Output) -> Term:
    term = TERMS[name]
    return build(term, term.Config.model_validate(settings), *outputs)


def loss(term: Term, student: Output, seen: Target, *, labeled: bool = True) -> Tensor:
    value: Tensor = term(student, seen, batch(len(student.logits_BC), labeled=labeled), Context()).value
    return value


def cast(record: Output, dtype: torch.dtype) -> Output:
    maps = tuple(map_BFHW.to(dtype) for map_BFHW in record.maps)
    return Output(record.logits_BC.to(dtype), record.feats_BF.to(dtype), maps)


@pytest.mark.parametrize(("name", "settings"), CASES)
def test_images_without_weight_are_left_out(name: str, settings: dict[str, Any]) -> None:
    student, teacher = networks()
    term = make(name, settings, student, teacher)
    ones_B, some_B = torch.ones(6), torch.tensor([1.0, 0.0, 1.0, 1.0, 0.0, 0.0])
    plain = loss(term, student, target(teacher)).item()
    assert loss(term, student, target(teacher, weight_B=ones_B)).item() == pytest.approx(plain, rel=1e-9)
    kept = some_B.nonzero()[:, 0]
    alone = loss(term, student.at(kept), target(teacher.at(kept))).item()
    weighted = loss(term, student, target(teacher, weight_B=some_B)).item()
    # The published means of SP and PKT are over all pairs, of values whose sum does not depend on the batch.
    power = 2 if name in ("sp", "pkt") else 1
    assert weighted == pytest.approx(alone * (len(kept) / 6) ** power, rel=1e-6)


@pytest.mark.parametrize(("name", "settings"), CASES)
def test_the_weight_of_an_image_scales_its_loss(name: str, settings: dict[str, Any]) -> None:
    # If all images have one weight, the loss has it as a factor.
    student, teacher = networks()
    term = make(name, settings, student, teacher)
    plain, half = (loss(term, student, target(teacher, weight_B=torch.full((6,), w))) for w in (1.0, 0.5))
    assert half.item() == pytest.approx(0.5 * plain.item(), rel=1e-9)


@pytest.mark.parametrize(("name", "settings"), CASES)
def test_no_weight_at_all_is_a_loss_of_zero(name: str, settings: dict[str, Any]) -> None:
    student, teacher = networks()
    features = student.feats_BF.clone().requires_grad_()
    maps = tuple(map_BFHW.clone().requires_grad_() for map_BFHW in student.maps)
    student = replace(student, feats_BF=features, maps=maps)
    value = loss(make(name, settings, student, teacher), student, target(teacher, weight_B=torch.zeros(6)))
    value.backward()  # type: ignore[no-untyped-call]
    assert value.item() == 0
    gradients = [tensor.grad for tensor in (features, *maps) if tensor.grad is not None]
    assert gradients
    assert all(bool((gradient == 0).all()) for gradient in gradients)


@pytest.mark.parametrize("name", NAMES)
def test_labels_do_not_matter(name: str) -> None:
    student, teacher = networks()
    term = make(name, {}, student, teacher)
    labeled, unlabeled = (loss(term, student, target(teacher), labeled=known) for known in (True, False))
    assert torch.equal(labeled, unlabeled)


@pytest.mark.parametrize("name", COMPARING)
def test_matrix_products_keep_their_precision_under_autocast(name: str) -> None:
    # These terms have no layers, so autocast must not change anything.
    student, teacher = (cast(record, torch.float32) for record in networks())
    term = make(name, {}, student, teacher)
    expected = loss(term, student, target(teacher))
    with torch.autocast("cpu", torch.bfloat16):
        value = loss(term, student, target(teacher))
    assert value.dtype == torch.float32
    assert torch.equal(value, expected)


@pytest.mark.parametrize(("name", "settings"), CASES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_outputs_of_lower_precision_have_float32_losses(
    name: str, settings: dict[str, Any], dtype: torch.dtype
) -> None:
    student, teacher = networks()
    term = make(name, settings, student, teacher).float()
    low = [cast(record, dtype) for record in (student, teacher)]
    with torch.autocast("cpu", torch.bfloat16):
        value = loss(term, low[0], target(low[1]))
    assert value.dtype == torch.float32
    exact = loss(term.double(), cast(low[0], torch.float64), target(cast(low[1], torch.float64)))
    # Layers run in bfloat16; the formula does not.
    assert value.item() == pytest.approx(exact.item(), rel=1e-5 if name in COMPARING else 3e-2)


@pytest.mark.parametrize("name", ON_FEATURES)
def test_losses_of_several_teachers_are_averaged_by_the_weights_of_features(name: str) -> None:
    student, first, second = output(6, 4, seed=0), output(6, 5, seed=10), output(6, 7, seed=20)
    both = make(name, {}, student, first, second)
    value = loss(both, student, target(first, second, weights=(0.25, 0.75)))
    each = [
        loss(both, student, target(first, second, weights=weights)) for weights in ((1.0, 0.0), (0.0, 1.0))
    ]
    assert value.item() == pytest.approx((0.25 * each[0] + 0.75 * each[1]).item(), rel=1e-12)
    if name in COMPARING:
        assert each[1].item() == loss(make(name, {}, student, second), student, target(second)).item()


@pytest.mark.parametrize("name", NAMES)
def test_a_mixed_batch_has_the_mixed_target_or_the_mixed_loss(name: str) -> None:
    student, teacher = networks()
    term = TERMS[name]
    spec = TermSpec(name, name, term, term.Config(weight=2.0), "teacher")
    objective = Objective(
        (spec,), shapes(student), {"teacher": (shapes(teacher),)}, torch.arange(6) % CLASSES, CLASSES, seed=0
    ).double()
    mix = Mix(0.7, torch.tensor([1, 2, 3, 4, 5, 0]))
    weight_B = torch.rand(6, generator=torch.Generator().manual_seed(0)).double()
    seen = target(teacher, weight_B=weight_B)
    value = objective(student, {"teacher": seen}, batch(6), Context(), mix).terms[name]
    built = objective.terms[name]
    assert isinstance(built, Term)
    mixed, partners = mix.target(seen), mix.partners(seen)
    assert mixed is not None
    assert partners is not None
    if name == "embed":
        expected = 0.7 * loss(built, student, seen) + 0.3 * loss(built, student, partners)
    else:
        expected = loss(built, student, mixed)
    assert value.item() == pytest.approx(2 * expected.item(), rel=1e-12)


@pytest.mark.parametrize("name", sorted(set(NAMES) - set(COMPARING)))
def test_the_loss_of_a_step_is_the_mean_of_its_parts(name: str) -> None:
    student, teacher = networks()
    term = make(name, {}, student, teacher)
    parts = [torch.arange(4), torch.arange(4, 6)]
    values = [loss(term, student.at(part), target(teacher.at(part))) for part in parts]
    whole = loss(term, student, target(teacher)).item()
    assert ((4 * values[0] + 2 * values[1]) / 6).item() == pytest.approx(whole, rel=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_a_term_states_from_how_many_images_it_learns(name: str) -> None:
    least = TERMS[name].least_images
    for images in range(1, 4):
        student, teacher = networks(images)
        value = loss(make(name, {}, student, teacher), student, target(teacher)).item()
        assert (value > 1e-9) == (images >= least), images
