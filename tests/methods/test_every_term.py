"""What holds for every term: it trains small pairs of any kind, combines with others, and resumes exactly."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from richkd.config.choices import TERMS
from richkd.core.interrupt import Interrupted
from richkd.methods.term import Context
from richkd.pipeline.assemble import Parts, assemble
from richkd.training.run import distill
from richkd.training.trainer import Task
from tests.fixtures import World, make_teacher
from tests.training.test_resume import stop_after

CPU = torch.device("cpu")
# Settings that make terms small enough for the tests' few images.
SMALL: dict[str, dict[str, Any]] = {"contrastive": {"num_negatives": 16, "embed_dim": 8}}
# The teacher is not trained, so at their own weights these terms would yield to the labels.
HEAVY = {name: {"weight": 5.0} for name in ("aver", "ca-mkd", "ebkd")}
# A transformer of constant resolution, tiny, whose input is fixed at 160 pixels.
VIT = {"student__name": "test_vit", "student__size": 160}
NAMES = sorted(TERMS)


def entry(name: str, **settings: Any) -> dict[str, dict[str, Any]]:
    return {name: SMALL.get(name, {}) | HEAVY.get(name, {}) | settings}


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


@pytest.mark.parametrize("student", [{}, VIT], ids=["cnn", "transformer"])
@pytest.mark.parametrize("name", NAMES)
def test_its_loss_falls_with_a_convolutional_teacher(
    world: World, tmp_path: Path, name: str, student: dict[str, Any]
) -> None:
    terms = ("ce",) if name == "ce" else ("ce", name)
    changes = {"train__epochs": 3, "optim__name": "adamw", "optim__lr": 2e-3, **student}
    run = distill(world.config(tmp_path / "run", **recipe(world, tmp_path, *terms, **changes)), quiet=True)
    assert list(run.summary["objective"]) == list(terms)
    epochs = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    assert epochs[-1][f"train/{name}"] < epochs[0][f"train/{name}"]


@pytest.mark.parametrize("pair", list(itertools.combinations(NAMES, 2)), ids="+".join)
def test_any_two_terms_combine(world: World, tmp_path: Path, pair: tuple[str, str]) -> None:
    losses = first_losses(assemble(world.config(tmp_path / "run", **recipe(world, tmp_path, *pair)), CPU))
    assert list(losses) == list(pair)
    assert all(value > 0 for value in losses.values())


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
