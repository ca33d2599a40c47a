"""The objective: weighted terms, and the loss of a mixed batch against closed forms in float64."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from richkd.config.schema import Config
from richkd.core import gather, processes
from richkd.core.types import UNLABELED, Batch, Output, Target
from richkd.data.mixup import Mix, draw_cutmix, draw_mixup
from richkd.data.shares import shares_of
from richkd.methods.ce import CrossEntropy, CrossEntropyConfig
from richkd.methods.contrastive import Contrastive, ContrastiveConfig
from richkd.methods.dist import Dist, DistConfig
from richkd.methods.embed import Embed, EmbedConfig
from richkd.methods.kd import Distillation, DistillationConfig
from richkd.methods.objective import LABELS, Objective, TermSpec, read_objective
from richkd.methods.term import Context, Loss, NetworkShapes, Setup, TargetConfig, Term
from tests.fixtures import refusal
from tests.models.test_joint_norm import Exchange
from tests.reference import losses as slow

IMAGES, CLASSES, WIDTHS = 6, 4, (7, 3)
BASE: dict[str, Any] = {"data": {"path": "."}, "student": {"name": "resnet18"}}
LABELS_N = torch.arange(24) % CLASSES


class Squared(Term):
    """A term that is not linear in the target: the squared distance of probabilities."""

    linear: ClassVar[bool] = False

    def forward(self, student: Output, target: Target | None, batch: Batch, context: Context) -> Loss:
        assert target is not None
        difference_BC = student.logits_BC.softmax(dim=1) - target.logits_BC.softmax(dim=1)
        return Loss(difference_BC.square().mean(), {"rows": target.logits_BC})


def ce(weight: float = 1.0, smoothing: float = 0.0) -> TermSpec:
    config = CrossEntropyConfig(weight=weight, label_smoothing=smoothing)
    return TermSpec("ce", "ce", CrossEntropy, config, LABELS)


def kd(weight: float = 1.0, temperature: float = 2.0) -> TermSpec:
    config = DistillationConfig(weight=weight, temperature=temperature)
    return TermSpec("kd", "kd", Distillation, config, "fused")


def contrastive(weight: float = 1.0) -> TermSpec:
    config = ContrastiveConfig(weight=weight, embed_dim=5, num_negatives=9)
    return TermSpec("contrastive", "contrastive", Contrastive, config, "fused")


def squared(weight: float = 1.0) -> TermSpec:
    return TermSpec("squared", "squared", Squared, TargetConfig(weight=weight), "fused")


def build(*specs: TermSpec) -> Objective:
    teachers = {"fused": tuple(NetworkShapes(width) for width in WIDTHS)}
    return Objective(specs, NetworkShapes(8), teachers, LABELS_N, CLASSES, seed=0).double()


def records(seed: int, *, weighted: bool = False) -> tuple[Output, dict[str, Target], Batch]:
    random = torch.Generator().manual_seed(seed)

    def normal(width: int) -> Tensor:
        return 2 * torch.randn(IMAGES, width, generator=random).double()

    teachers = tuple(Output(normal(CLASSES), normal(width)) for width in WIDTHS)
    weight_B = torch.rand(IMAGES, generator=random).double() if weighted else None
    target = Target(normal(CLASSES), teachers, (0.7, 0.3), weight_B)
    index_B = torch.randperm(len(LABELS_N), generator=random)[:IMAGES]
    pixels = torch.zeros(IMAGES, 2, 2, 3, dtype=torch.uint8)
    batch = Batch("train", index_B, pixels, LABELS_N[index_B])
    return Output(normal(CLASSES), normal(8)), {"fused": target}, batch


def draw(alpha: float, seed: int, step: int) -> Mix:
    """Mixup in even steps, CutMix in odd ones."""
    if step % 2:
        return draw_cutmix(alpha, IMAGES, (9, 8), seed, step)
    return draw_mixup(alpha, IMAGES, seed, step)


def partners_of(mix: Mix, targets: dict[str, Target], batch: Batch) -> tuple[dict[str, Target], Batch]:
    return {name: target.at(mix.partner_B) for name, target in targets.items()}, batch.at(mix.partner_B)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 999), st.integers(0, 999), st.floats(0.1, 4), st.booleans())
def test_a_mixed_loss_of_linear_terms_is_the_lerp_of_two_losses(
    seed: int, step: int, alpha: float, weighted: bool
) -> None:
    student, targets, batch = records(seed, weighted=weighted)
    mix = draw(alpha, seed, step)
    objective = build(ce(0.5, 0.1), kd(3.0), contrastive(0.8))
    context = Context(step=step + 1)
    objective.terms["contrastive"].memory.log_normalizers.fill_(2.0)  # type: ignore[union-attr,operator]
    first = objective(student, targets, batch, context).terms
    second = objective(student, *partners_of(mix, targets, batch), context).terms
    result = objective(student, targets, batch, context, mix).terms
    assert list(result) == ["ce", "kd", "contrastive"]
    for name, value in result.items():
        # The contrastive embeddings are float32.
        rounding = 1e-5 if name == "contrastive" else 1e-12
        expected = mix.share * first[name].item() + (1 - mix.share) * second[name].item()
        assert value.item() == pytest.approx(expected, rel=rounding)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 999), st.integers(0, 999), st.floats(0.1, 4))
def test_a_mixed_loss_of_linear_terms_is_the_loss_of_the_mixed_target(
    seed: int, step: int, alpha: float
) -> None:
    student, targets, batch = records(seed)
    mix = draw(alpha, seed, step)
    result = build(ce(), kd())(student, targets, batch, Context(step=step), mix).terms
    share, other_B = mix.share, mix.partner_B
    hot_BC = functional.one_hot(batch.labels_B, CLASSES).double()
    labels_BC = share * hot_BC + (1 - share) * hot_BC[other_B]
    expected = functional.cross_entropy(student.logits_BC, labels_BC)
    assert result["ce"].item() == pytest.approx(expected.item(), rel=1e-9)
    # KL of the mix differs from the mix of KLs by entropies of the targets, which no gradient sees.
    soft_BC = (targets["fused"].logits_BC / 2).softmax(dim=1)
    mixed_BC = share * soft_BC + (1 - share) * soft_BC[other_B]
    entropies = share * _entropy(soft_BC) + (1 - share) * _entropy(soft_BC[other_B]) - _entropy(mixed_BC)
    student_log_BC = (student.logits_BC / 2).log_softmax(dim=1)
    divergence = 4 * (functional.kl_div(student_log_BC, mixed_BC, reduction="batchmean") - entropies)
    assert result["kd"].item() == pytest.approx(divergence.item(), rel=1e-9, abs=1e-12)


def _entropy(probs_BC: Tensor) -> Tensor:
    return -(probs_BC * probs_BC.log()).sum(dim=1).mean()


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 999), st.integers(0, 1), st.floats(0.1, 4))
def test_a_mixed_loss_of_a_non_linear_term_is_the_loss_with_the_mixed_target(
    seed: int, step: int, alpha: float
) -> None:
    student, targets, batch = records(seed)
    mix = draw(alpha, seed, step)
    objective = build(squared(0.3))
    result = objective(student, targets, batch, Context(), mix)
    soft_BC = targets["fused"].logits_BC.softmax(dim=1)
    mixed_BC = mix.share * soft_BC + (1 - mix.share) * soft_BC[mix.partner_B]
    expected = 0.3 * (student.logits_BC.softmax(dim=1) - mixed_BC).square().mean()
    assert result.terms["squared"].item() == pytest.approx(expected.item(), rel=1e-12)
    # The lerp of two losses is larger by s(1 − s) times the squared distance of the two targets.
    first = objective(student, targets, batch, Context()).terms["squared"].item()
    second = objective(student, *partners_of(mix, targets, batch), Context()).terms["squared"].item()
    lerp = mix.share * first + (1 - mix.share) * second
    distance = (soft_BC - soft_BC[mix.partner_B]).square().mean().item()
    gap = 0.3 * mix.share * (1 - mix.share) * distance
    assert lerp - result.terms["squared"].item() == pytest.approx(gap, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("label", ["", "kd.soft", "train", "type", "keys", "half", "training", "_modules"])
def test_a_label_that_is_no_name_of_a_module_is_refused(label: str) -> None:
    for objective in ([{"ce": {}}, {label: {"term": "kd"}}], {label: {"term": "kd"}}):
        error = refusal(read_objective, Config.model_validate(BASE | {"objective": objective}))
        assert f"'objective.{label}'" in error.rule
        assert error.fix == "use letters, digits, - and _, such as kd-soft."


@pytest.mark.parametrize("label", ["kd-soft", "kd_2", "k", "Train", "2", "kd (clip)", "terms"])
def test_other_labels_name_a_term(label: str) -> None:
    config = Config.model_validate(BASE | {"objective": [{label: {"term": "kd"}}]})
    (spec,) = specs = read_objective(config)
    assert spec.label == label
    assert list(build(*specs).terms) == [label]


def test_terms_equal_the_loops_and_have_their_labels() -> None:
    student, targets, batch = records(5)
    specs = (ce(0.5, 0.1), TermSpec("soft", "kd", Distillation, kd(2.0, 2.5).config, "fused"))
    result = build(*specs)(student, targets, batch, Context())
    smoothed = slow.cross_entropy(student.logits_BC, batch.labels_B, 0.1)
    divergence = slow.kd_divergence(student.logits_BC, targets["fused"].logits_BC, 2.5)
    assert result.terms["ce"].item() == pytest.approx(0.5 * smoothed, rel=1e-9)
    assert result.terms["soft"].item() == pytest.approx(2.0 * divergence, rel=1e-9)
    assert result.total.item() == pytest.approx(0.5 * smoothed + 2.0 * divergence, rel=1e-9)


@pytest.mark.parametrize("mixed", [False, True])
def test_weights_apply_once(mixed: bool) -> None:
    student, targets, batch = records(1)
    mix = draw_mixup(1.0, IMAGES, 0, 0) if mixed else None
    weights: dict[str, tuple[Any, float]] = {
        "ce": (ce, 0.5),
        "kd": (kd, 3.0),
        "contrastive": (contrastive, 0.8),
        "squared": (squared, 0.25),
    }

    def terms(specs: list[TermSpec]) -> dict[str, Tensor]:
        values: dict[str, Tensor] = build(*specs)(student, targets, batch, Context(), mix).terms
        return values

    weighted = terms([make(weight) for make, weight in weights.values()])
    plain = terms([make() for make, _ in weights.values()])
    for name, (_, weight) in weights.items():
        assert plain[name].item() > 0
        rounding = 1e-6 if name == "contrastive" else 1e-12
        assert weighted[name].item() == pytest.approx(weight * plain[name].item(), rel=rounding)
    none = terms([make(0.0) for make, _ in weights.values()])
    assert all(value.item() == 0 for value in none.values())


def test_memory_is_of_the_first_image() -> None:
    student, targets, batch = records(2)
    mix = Mix(0.6, torch.arange(IMAGES).roll(1))
    objective = build(ce(), contrastive(), squared())
    plain = objective(student, targets, batch, Context())
    result = objective(student, targets, batch, Context(), mix)
    assert result.memory.keys() == plain.memory.keys() == {"contrastive", "squared"}
    for name in ("student", "target"):
        rows_BD = result.memory["contrastive"][name]
        assert torch.equal(rows_BD, plain.memory["contrastive"][name])
        assert not torch.equal(rows_BD, rows_BD[mix.partner_B])
        assert not rows_BD.requires_grad
    # A non-linear term is computed once, with the mixed target.
    mixed = mix.target(targets["fused"])
    assert mixed is not None
    assert torch.equal(result.memory["squared"]["rows"], mixed.logits_BC)


def test_memory_is_handed_to_its_own_term() -> None:
    student, targets, batch = records(3)
    objective = build(ce(), contrastive())
    memory = objective(student, targets, batch, Context()).memory
    bank = objective.terms["contrastive"].memory.negatives  # type: ignore[union-attr]
    before = bank.student_ND.clone()  # type: ignore[union-attr,operator]
    objective.remember(batch.index_B, memory)
    moved_N = (bank.student_ND != before).any(dim=1)  # type: ignore[union-attr]
    rows_B = bank.row_of_image_N[batch.index_B]  # type: ignore[union-attr,index]
    assert sorted(moved_N.nonzero()[:, 0].tolist()) == sorted(rows_B.tolist())


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_unlabeled_images_add_zero_to_cross_entropy(smoothing: float) -> None:
    student, targets, batch = records(4)
    labels_B = batch.labels_B.clone()
    labels_B[[1, 4]] = UNLABELED
    partly = Batch("train", batch.index_B, batch.pixels_BHWC, labels_B)
    objective = build(ce(2.0, smoothing))
    each = [
        slow.cross_entropy(student.logits_BC[i : i + 1], batch.labels_B[i : i + 1], smoothing)
        for i in range(IMAGES)
    ]
    known = [0.0 if i in (1, 4) else loss for i, loss in enumerate(each)]
    plain = objective(student, targets, partly, Context()).terms["ce"]
    assert plain.item() == pytest.approx(2 * sum(known) / IMAGES, rel=1e-12)
    # In a mix an unlabeled image, first or partner, adds zero, too.
    mix = Mix(0.7, torch.tensor([1, 0, 4, 2, 3, 5]))
    partner = [
        0.0
        if int(labels_B[p]) == UNLABELED
        else slow.cross_entropy(student.logits_BC[i : i + 1], labels_B[p : p + 1], smoothing)
        for i, p in enumerate(mix.partner_B.tolist())
    ]
    mixed = objective(student, targets, partly, Context(), mix).terms["ce"]
    assert mixed.item() == pytest.approx(2 * (0.7 * sum(known) + 0.3 * sum(partner)) / IMAGES, rel=1e-12)
    # A batch without any label has a loss of zero and a gradient of zero.
    student.logits_BC.requires_grad_()
    nothing = Batch("train", batch.index_B, batch.pixels_BHWC, torch.full((IMAGES,), UNLABELED))
    loss = objective(student, targets, nothing, Context(), mix).total
    loss.backward()
    assert loss.item() == 0
    assert student.logits_BC.grad is not None
    assert bool((student.logits_BC.grad == 0).all())


def test_the_state_is_a_function_of_the_seed_and_not_of_torchs_stream() -> None:
    def state(seed: int, drawn: int) -> dict[str, Tensor]:
        torch.manual_seed(drawn)
        shapes = {"fused": tuple(NetworkShapes(width) for width in WIDTHS)}
        objective = Objective((contrastive(),), NetworkShapes(8), shapes, LABELS_N, CLASSES, seed)
        # Building an objective does not change what is drawn after it.
        assert torch.equal(torch.rand(3), torch.rand(3, generator=torch.Generator().manual_seed(drawn)))
        return objective.state_dict()

    one, same, other = state(0, 1), state(0, 2), state(1, 1)
    # Normalizers are NaN until the first batch.
    assert all(torch.allclose(one[name], same[name], rtol=0, atol=0, equal_nan=True) for name in one)
    for name in ("student_head.weight", "negatives.student_ND", "negatives.target_ND"):
        assert not torch.equal(
            one[f"terms.contrastive.memory.{name}"], other[f"terms.contrastive.memory.{name}"]
        )


def test_two_terms_of_one_kind_start_with_weights_of_their_own() -> None:
    config = EmbedConfig()
    terms = build(
        *(TermSpec(label, "embed", Embed, config, "fused") for label in ("one", "two"))
    ).state_dict()
    assert not torch.equal(terms["terms.one.heads.0.weight"], terms["terms.two.heads.0.weight"])
    again = build(TermSpec("two", "embed", Embed, config, "fused")).state_dict()
    assert torch.equal(again["terms.two.heads.0.weight"], terms["terms.two.heads.0.weight"])


def test_a_term_with_a_stream_has_the_same_state_under_any_label() -> None:
    def bank(label: str) -> Tensor:
        spec = TermSpec(label, "contrastive", Contrastive, contrastive().config, "fused")
        return build(spec).state_dict()[f"terms.{label}.memory.negatives.student_ND"]

    assert torch.equal(bank("contrastive"), bank("soft"))


def test_parts_of_a_step_add_up_to_the_loss_of_the_step() -> None:
    student, targets, batch = records(7)
    objective = build(ce(), kd(), contrastive())
    objective.terms["contrastive"].memory.log_normalizers.fill_(2.0)  # type: ignore[union-attr,operator]
    whole = objective(student, targets, batch, Context(step=3)).terms
    sums = dict.fromkeys(whole, 0.0)
    for first, count in ((0, 2), (2, 4)):
        places = torch.arange(first, first + count)
        part = {name: target.at(places) for name, target in targets.items()}
        seen = Output(student.logits_BC[places], student.feats_BF[places])
        context = Context(step=3, first=first, of_step=IMAGES)
        for name, value in objective(seen, part, batch.at(places), context).terms.items():
            sums[name] += value.item() * count / IMAGES
    assert sums == pytest.approx({name: value.item() for name, value in whole.items()}, rel=1e-6)


def test_the_losses_of_all_processes_add_up_to_the_loss_of_all_images(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    exchange = Exchange(2)
    monkeypatch.setattr(processes, "dist", exchange)
    monkeypatch.setattr(processes, "world", lambda: 2)
    monkeypatch.setattr(processes, "rank", lambda: exchange.rank)
    monkeypatch.setattr(gather, "rank", lambda: exchange.rank)
    student, targets, batch = records(8, weighted=True)
    # Terms of single images, and one that compares all images.
    dist = TermSpec("dist", "dist", Dist, DistConfig(), "fused")
    objective = build(ce(0.5), kd(3.0), dist, contrastive())
    objective.terms["contrastive"].memory.log_normalizers.fill_(2.0)  # type: ignore[union-attr,operator]
    context = Context(step=2)
    whole = objective(student, targets, batch, context)
    assert shares_of(batch.index_B, 1, 0, 2)[0].sizes == (2, 4)

    def work(rank: int) -> Any:
        (share,) = shares_of(batch.index_B, 1, rank, 2)
        places = torch.arange(share.first, share.first + share.computed)
        part = {name: target.at(places) for name, target in targets.items()}
        seen = Output(student.logits_BC[places], student.feats_BF[places])
        here = Context(step=2, first=share.first, of_step=IMAGES)
        return objective(seen, part, batch.at(places), here, None, share)

    results = exchange.run(work)
    for name, value in whole.terms.items():
        total = sum(result.terms[name].item() for result in results)
        assert total == pytest.approx(value.item(), rel=1e-6), name
    for result in results:
        rows = result.memory["contrastive"]["student"]
        torch.testing.assert_close(rows, whole.memory["contrastive"]["student"])


def test_a_term_without_a_target_gets_none() -> None:
    given: list[Target | None] = []

    class Recording(CrossEntropy):
        def __init__(self, config: Any, setup: Setup) -> None:
            super().__init__(config, setup)
            assert setup.teachers == ()

        def forward(self, student: Output, target: Target | None, batch: Batch, context: Context) -> Loss:
            given.append(target)
            return super().forward(student, target, batch, context)

    student, targets, batch = records(6)
    objective = build(TermSpec("ce", "ce", Recording, CrossEntropyConfig(), LABELS))
    objective(student, targets, batch, Context(), draw_mixup(1.0, IMAGES, 0, 0))
    assert given == [None, None]
