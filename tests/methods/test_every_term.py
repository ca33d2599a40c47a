"""What holds for every term: it trains small pairs of any kind, combines with others, and resumes exactly."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from richkd.config.choices import TERMS
from richkd.config.schema import ModelConfig
from richkd.core.interrupt import Interrupted
from richkd.export.student import save_student
from richkd.methods.objective import read_objective
from richkd.methods.term import Context, LogitConfig
from richkd.models.build import build_network
from richkd.pipeline.assemble import Parts, assemble
from richkd.training.run import distill
from richkd.training.task import Task
from tests.fixtures import CLASSES, World, make_teacher, refusal
from tests.training.test_resume import stop_after

CPU = torch.device("cpu")
# Settings that make terms small enough for the tests' few images, and their losses comparable over few
# steps: a warm-up raises a loss, and cross-entropy pulls against a teacher that was never trained.
SMALL: dict[str, dict[str, Any]] = {
    "contrastive": {"num_negatives": 16, "embed_dim": 8},
    "crd": {"num_negatives": 16, "embed_dim": 8},
    "reviewkd": {"warmup": 0},
    "simkd": {"weight": 10},
}
# Memory banks start with random rows, so the loss falls once most images were seen more than once. That
# of mlkd is noisy, because it compares the few images of a batch with each other.
EPOCHS = {"crd": 6, "mlkd": 6}
# A transformer of constant resolution, tiny, whose input is fixed at 160 pixels.
VIT = {"student__name": "test_vit", "student__size": 160}
NAMES = sorted(TERMS)
LOGIT_TERMS = [name for name in NAMES if issubclass(TERMS[name].Config, LogitConfig)]


def entry(name: str, **settings: Any) -> dict[str, dict[str, Any]]:
    return {name: SMALL.get(name, {}) | settings}


def recipe(world: World, out: Path, *terms: str, target: str = "teacher", **changes: Any) -> dict[str, Any]:
    """Settings of a short run whose objective is a list of terms."""
    read = {} if set(terms) == {"ce"} else {"teachers__1__name": f"local-dir:{world.teacher}"}
    objective = [entry(name, **({} if name == "ce" else {"target": target})) for name in terms]
    return {"train__epochs": 1, "objective": objective} | read | changes


def first_losses(parts: Parts) -> dict[str, float]:
    """The loss terms of a run's first batch, with their gradient computed."""
    task = Task(parts)
    (batch,) = parts.training_batches(0, [parts.order().epoch(0)[0]])
    terms = task(parts.student_pixels(batch, 0), parts.teach(batch, 0), batch, Context(progress=0.5))
    terms.total.backward()
    return {name: float(value.detach()) for name, value in terms.terms.items()}


@pytest.fixture(scope="module")
def transformer(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The setting of a transformer as teacher."""
    folder = tmp_path_factory.mktemp("transformer") / "teacher"
    with torch.random.fork_rng():
        torch.manual_seed(5)
        network = build_network(ModelConfig(name="test_vit", size=160), len(CLASSES), role="teacher")
    # The logits of an untrained transformer are almost those of an untrained student.
    network.model.head.weight.data *= 10
    save_student(folder, network, CLASSES, 1.0, {})
    return {"teachers__1__name": f"local-dir:{folder}"}


@pytest.mark.slow
@pytest.mark.parametrize("pair", ["cnn-cnn", "cnn-transformer", "transformer-cnn"])
@pytest.mark.parametrize("name", NAMES)
def test_its_loss_falls_for_any_pair_of_teacher_and_student(
    world: World, tmp_path: Path, name: str, pair: str, transformer: dict[str, Any]
) -> None:
    if name == "ce" and pair == "transformer-cnn":
        pytest.skip("ce reads no teacher")
    terms = ("ce",) if name == "ce" else ("ce", name)
    changes = {
        "train__epochs": EPOCHS.get(name, 3),
        "train__seed": 2,
        "optim__name": "adamw",
        "optim__lr": 2e-3,
    }
    changes |= {"cnn-cnn": {}, "cnn-transformer": VIT, "transformer-cnn": transformer}[pair]
    settings = recipe(world, tmp_path, *terms, **changes)
    if name != "ce":
        # The teacher is not trained, so cross-entropy leads away from it.
        settings["objective"][0] = {"ce": {"weight": 0.1}}
    run = distill(world.config(tmp_path / "run", **settings), quiet=True)
    assert list(run.summary["objective"]) == list(terms)
    epochs = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    assert epochs[-1][f"train/{name}"] < epochs[0][f"train/{name}"]


def test_all_terms_combine_and_none_changes_another(world: World, tmp_path: Path) -> None:
    def losses(*names: str) -> dict[str, float]:
        config = world.config(tmp_path / "run", **recipe(world, tmp_path, *names))
        return first_losses(assemble(config, CPU))

    # A term that replaces the student's classifier changes what all others see.
    names = [name for name in NAMES if not TERMS[name].reuses_classifier]
    together = losses(*names)
    assert list(together) == names
    assert all(value > 0 for value in together.values())
    assert together == {name: losses(name)[name] for name in names}


@pytest.mark.parametrize("name", LOGIT_TERMS)
def test_a_standardized_term_does_not_see_the_scale_of_the_target(
    world: World, tmp_path: Path, name: str
) -> None:
    def loss(weights: str, **settings: Any) -> float:
        objective = [entry(name, target="teacher", **settings)]
        changes = recipe(world, tmp_path, name) | {"objective": objective, "fusion__weights": weights}
        return first_losses(assemble(world.config(tmp_path / "run", **changes), CPU))[name]

    assert loss("[5]", standardize=True) == pytest.approx(loss("[1]", standardize=True), rel=1e-3)
    assert loss("[5]") != pytest.approx(loss("[1]"), rel=1e-2)


@pytest.mark.parametrize("name", sorted({*NAMES} - {*LOGIT_TERMS}))
def test_terms_that_do_not_compare_logits_cannot_be_standardized(
    world: World, tmp_path: Path, name: str
) -> None:
    config = world.config(
        tmp_path / "run", **recipe(world, tmp_path, name) | {"objective": [{name: {"standardize": True}}]}
    )
    error = refusal(read_objective, config)
    assert f"'objective.{name}.standardize' belongs to terms that compare logits" in error.rule


def test_every_term_that_compares_logits_can_be_standardized() -> None:
    with_target = {name for name in NAMES if "target" in TERMS[name].Config.model_fields}
    assert {name for name in with_target if "logits" in TERMS[name].needs} == set(LOGIT_TERMS)


def test_terms_read_different_targets_in_one_run(world: World, tmp_path: Path) -> None:
    make_teacher(tmp_path / "second", seed=9)
    objective = [
        {"ce": None},
        entry("kd", target="fused"),
        {"from_clip": {"term": "kd", "target": "clip", "weight": 0.5}},
        {"second": {"term": "kd", "target": "teacher-2", "weight": 0.5}},
        entry("contrastive", target="teacher"),
    ]
    settings = {
        "teachers__1__name": f"local-dir:{world.teacher}",
        "teachers__2__name": f"local-dir:{tmp_path / 'second'}",
        "clip__name": f"outputs:{world.clip}",
        "objective": objective,
        "train__epochs": 2,
    }
    run = distill(world.config(tmp_path / "run", **settings), quiet=True)
    assert list(run.summary["objective"]) == ["ce", "kd", "from_clip", "second", "contrastive"]
    assert run.summary["method"] == "ce + kd + from_clip + second + contrastive"
    assert len(run.summary["teachers"]["test"]) >= 4


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(NAMES) - {"ce"}))
def test_a_resumed_run_has_the_same_bytes(
    world: World, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def config(folder: str) -> Any:
        settings = recipe(world, tmp_path, "ce", name, train__epochs=2)
        return world.config(tmp_path / folder, **settings)

    whole = distill(config("whole"), quiet=True)
    with monkeypatch.context() as patched:
        stop_after(patched, 3)
        with pytest.raises(Interrupted):
            distill(config("cut"), quiet=True)
    resumed = distill(config("cut"), resume=True, quiet=True)
    for file in ("student/model.safetensors", "metrics.jsonl"):
        assert (whole.folder / file).read_bytes() == (resumed.folder / file).read_bytes()
