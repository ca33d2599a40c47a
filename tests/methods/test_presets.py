"""Methods: the named terms of each with their weights, and where gradients flow."""

from __future__ import annotations

import pytest
import torch

from richkd.config.schema import MethodConfig
from richkd.core.errors import ConfigError
from richkd.core.types import Batch, LossTerms, Output, Target
from richkd.losses.memory_bank import ContrastMemory
from richkd.methods.presets import METHODS, Context, Method, find_method
from tests.reference import losses as slow

CLASSES, IMAGES = 5, 20
CONFIG = MethodConfig(
    ce=0.5, logits=2.0, features=0.25, temperature=2.5, label_smoothing=0.1, embed_width=6, negatives=8
)
UNIT = CONFIG.model_copy(update={"ce": 1.0, "logits": 1.0, "features": 1.0})
LABELS_N = torch.arange(IMAGES) % CLASSES
TERMS = {
    "ce": {"ce"},
    "kd": {"ce", "logits"},
    "richkd-l": {"ce", "logits"},
    "richkd-f": {"ce", "features"},
    "richkd-lf": {"ce", "logits", "features"},
}


def scene() -> tuple[Output, Target, Batch]:
    generator = torch.Generator().manual_seed(0)
    index_B = torch.tensor([3, 9, 16])

    def random(width: int) -> torch.Tensor:
        return torch.randn(3, width, generator=generator)

    student = Output(random(CLASSES).requires_grad_(), random(8).requires_grad_())
    teachers = (Output(random(CLASSES), random(7)), Output(random(CLASSES), random(4)))
    target = Target(3 * random(CLASSES), teachers, (0.7, 0.3))
    batch = Batch("train", index_B, torch.zeros(3, 2, 2, 3, dtype=torch.uint8), LABELS_N[index_B])
    return student, target, batch


def context(config: MethodConfig, step: int = 0) -> Context:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Context(config, step, ContrastMemory(8, (7, 4), LABELS_N, CLASSES, config, 0))


def test_every_method_is_tested_here() -> None:
    assert METHODS.keys() == TERMS.keys()


@pytest.mark.parametrize("name", METHODS)
def test_terms_have_their_names_and_weights(name: str) -> None:
    student, target, batch = scene()
    method = METHODS[name]
    weighted = method.terms(student, target, batch, context(CONFIG))
    plain = method.terms(student, target, batch, context(UNIT))
    assert weighted.terms.keys() == plain.terms.keys() == TERMS[name]
    weights = {"ce": 0.5, "logits": 2.0, "features": 0.25}
    for term, value in weighted.terms.items():
        assert value.item() == pytest.approx(weights[term] * plain.terms[term].item(), rel=1e-6)
    assert weighted.total.item() == pytest.approx(
        sum(term.item() for term in weighted.terms.values()), rel=1e-6
    )
    smoothed = slow.cross_entropy(student.logits_BC, batch.labels_B, 0.1)
    assert plain.terms["ce"].item() == pytest.approx(smoothed, rel=1e-5)
    if "logits" in plain.terms:
        divergence = slow.kd_divergence(student.logits_BC, target.logits_BC, 2.5)
        assert plain.terms["logits"].item() == pytest.approx(divergence, rel=1e-5)
    if "features" in plain.terms:
        own = context(UNIT)
        assert own.memory is not None
        embedded = own.memory.embed(student, target)
        assert plain.terms["features"].item() == pytest.approx(
            own.memory.loss(*embedded, batch, 0).item(), rel=1e-6
        )


@pytest.mark.parametrize("name", METHODS)
def test_what_a_method_needs_is_what_it_declares(name: str) -> None:
    student, target, batch = scene()
    method = METHODS[name]
    memory = context(CONFIG).memory if method.remembers else None
    terms = method.terms(student, target if method.teachers else None, batch, Context(CONFIG, 0, memory))
    assert set(terms.memory) == ({"student", "target"} if method.remembers else set())
    for rows_BD in terms.memory.values():
        assert rows_BD.shape == (3, CONFIG.embed_width)
        assert not rows_BD.requires_grad


@pytest.mark.parametrize("name", METHODS)
def test_gradients_reach_the_student_and_the_heads_and_nothing_else(name: str) -> None:
    student, target, batch = scene()
    for tensor in (target.logits_BC, *(teacher.logits_BC for teacher in target.teachers)):
        tensor.requires_grad_()
    here = context(CONFIG)
    assert here.memory is not None
    banks = (here.memory.rows.student_ND.clone(), here.memory.rows.target_ND.clone())
    METHODS[name].terms(student, target, batch, here).total.backward()
    assert student.logits_BC.grad is not None
    assert student.logits_BC.grad.abs().sum() > 0
    assert target.logits_BC.grad is None
    assert all(teacher.logits_BC.grad is None for teacher in target.teachers)
    with_features = "features" in TERMS[name]
    assert (student.feats_BF.grad is not None) == with_features
    for parameter in here.memory.parameters():
        assert (parameter.grad is not None) == with_features
    assert not here.memory.rows.student_ND.requires_grad
    assert torch.equal(here.memory.rows.student_ND, banks[0])
    assert torch.equal(here.memory.rows.target_ND, banks[1])


def test_names_and_variants() -> None:
    assert find_method(MethodConfig()) is METHODS["richkd-lf"]
    for variant in ("l", "f", "lf"):
        assert find_method(MethodConfig(name="richkd", variant=variant)) is METHODS[f"richkd-{variant}"]
    assert find_method(MethodConfig(name="kd")) is METHODS["kd"]
    assert find_method(MethodConfig(name="ce", variant="l")) is METHODS["ce"]
    assert METHODS["ce"].teachers == ()
    assert METHODS["kd"].teachers == ("teacher",)
    assert METHODS["richkd-l"].teachers == METHODS["richkd-lf"].teachers == ("teacher", "clip")
    assert [name for name, method in METHODS.items() if method.remembers] == ["richkd-f", "richkd-lf"]


@pytest.mark.parametrize(
    ("name", "hint"), [("richdk", "'richkd'"), ("dk", "'kd'"), ("zzz", "Known: ce, kd, richkd")]
)
def test_an_unknown_method_names_the_nearest(name: str, hint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        find_method(MethodConfig(name=name))
    assert caught.value.rule == f"There is no method '{name}'"
    assert hint in str(caught.value.fix)


def test_a_function_is_all_that_a_new_method_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    def squared(student: Output, target: Target | None, batch: Batch, context: Context) -> LossTerms:
        assert target is not None
        distance = (student.logits_BC - target.logits_BC).square().mean()
        return LossTerms({"squared": context.config.logits * distance})

    monkeypatch.setitem(METHODS, "squared", Method(squared, teachers=("teacher",)))
    method = find_method(MethodConfig(name="squared"))
    student, target, batch = scene()
    terms = method.terms(student, target, batch, Context(CONFIG, 0))
    expected = 2 * (student.logits_BC - target.logits_BC).square().mean()
    assert terms.total.item() == pytest.approx(expected.item())
    assert terms.memory == {}
