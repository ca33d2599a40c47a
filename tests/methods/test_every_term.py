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
from richkd.methods.term import Context
from richkd.models.build import build_network
from richkd.pipeline.assemble import Parts, assemble
from richkd.training.run import distill
from richkd.training.trainer import Task
from tests.fixtures import CLASSES, World, make_teacher
from tests.training.test_resume import stop_after

CPU = torch.device("cpu")
# Settings that make terms small enough for the tests' few images.
SMALL: dict[str, dict[str, Any]] = {"contrastive": {"num_negatives": 16, "embed_dim": 8}}
# A transformer of constant resolution, tiny, whose input is fixed at 160 pixels.
VIT = {"student__name": "test_vit", "student__size": 160}
NAMES = sorted(TERMS)
# Terms for which the kind of the teacher matters.
ON_FEATURES = [name for name in NAMES if TERMS[name].needs - {"logits"}]


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
def transformer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a teacher of constant resolution."""
    folder = tmp_path_factory.mktemp("teacher")
    with torch.random.fork_rng():
        torch.manual_seed(7)
        network = build_network(
            ModelConfig(name=VIT["student__name"], size=VIT["student__size"]), len(CLASSES), role="teacher"
        )
    save_student(folder, network, CLASSES, 1.0, {})
    return folder


def check_that_the_loss_falls(world: World, folder: Path, name: str, **changes: Any) -> None:
    terms = ("ce",) if name == "ce" else ("ce", name)
    settings: dict[str, Any] = {
        "train__epochs": 3,
        "train__seed": 2,
        "optim__name": "adamw",
        "optim__lr": 2e-3,
    }
    given = recipe(world, folder, *terms, **settings | changes)
    if name != "ce":
        # The teacher is random, so the labels contradict it.
        given["objective"][0]["ce"]["weight"] = 0.1
    run = distill(world.config(folder, **given), quiet=True)
    assert list(run.summary["objective"]) == list(terms)
    epochs = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    assert epochs[-1][f"train/{name}"] < epochs[0][f"train/{name}"]


@pytest.mark.parametrize("student", [{}, VIT], ids=["cnn", "transformer"])
@pytest.mark.parametrize("name", NAMES)
def test_its_loss_falls_with_a_convolutional_teacher(
    world: World, tmp_path: Path, name: str, student: dict[str, Any]
) -> None:
    check_that_the_loss_falls(world, tmp_path / "run", name, **student)


@pytest.mark.parametrize("name", ON_FEATURES)
def test_its_loss_falls_with_a_transformer_as_teacher(
    world: World, transformer: Path, tmp_path: Path, name: str
) -> None:
    teacher = {"teachers__1__name": f"local-dir:{transformer}"}
    check_that_the_loss_falls(world, tmp_path / "run", name, **teacher)


def test_any_terms_combine_and_none_changes_another(world: World, tmp_path: Path) -> None:
    def losses(*names: str) -> dict[str, float]:
        return first_losses(assemble(world.config(tmp_path / "run", **recipe(world, tmp_path, *names)), CPU))

    together = losses(*NAMES)
    assert list(together) == NAMES
    for name in NAMES:
        alone = losses(name)
        assert list(alone) == [name]
        assert alone[name] > 0
        assert together[name] == pytest.approx(alone[name], rel=1e-5)


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
