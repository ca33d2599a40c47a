"""Every loss term trains a pair of CNNs, and a ViT from a CNN; any two terms combine."""

from __future__ import annotations

import json
import math
from itertools import combinations_with_replacement
from pathlib import Path
from typing import Any

import pytest

from richkd.config.choices import TERMS
from richkd.training.run import distill
from tests.fixtures import SIZE, World

CNN = {"student__name": "cifar_resnet8", "student__size": SIZE}
VIT = {"student__name": "test_vit", "student__size": 160, "data__size": SIZE}


def losses_by_epoch(world: World, out: Path, term: str, student: dict[str, Any]) -> list[float]:
    """The mean loss of a term in each epoch of a short run with ``--method TERM``."""
    small = {} if term != "contrastive" else {"objective.contrastive.num_negatives": 16}
    settings = {"method__name": term, "optim__name": "adamw", "optim__lr": 2e-3, **student, **small}
    distill(world.config(out, **settings), quiet=True)
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [line[f"train/{term}"] for line in lines]


@pytest.mark.parametrize("student", [CNN, VIT], ids=["cnn", "vit"])
@pytest.mark.parametrize("term", TERMS)
def test_a_term_trains_the_pair(world: World, tmp_path: Path, term: str, student: dict[str, Any]) -> None:
    losses = losses_by_epoch(world, tmp_path / "run", term, student)
    assert len(losses) == 3
    assert losses[-1] < losses[0]


@pytest.mark.parametrize(("first", "second"), list(combinations_with_replacement(TERMS, 2)))
def test_any_two_terms_combine(world: World, tmp_path: Path, first: str, second: str) -> None:
    """The first term reads the fused target if it can, the second one the single teacher."""
    targets = {first: "teacher-1" if TERMS[first].one_teacher else "fused", "other": "teacher-1"}
    objective = [
        {label: settings_of(name, targets[label])} for label, name in ((first, first), ("other", second))
    ]
    reads_clip = targets[first] == "fused" and first != "ce"
    chosen = {
        "teachers.1.name": f"local-dir:{world.teacher}" if (first, second) != ("ce", "ce") else None,
        "clip.name": f"outputs:{world.clip}" if reads_clip else None,
    }
    distill(
        world.config(tmp_path / "run", objective=objective, train__epochs=1, **chosen),
        quiet=True,
    )
    (line,) = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    losses = {name: value for name, value in line.items() if name.startswith("train/")}
    assert losses.keys() == {f"train/{first}", "train/other"}
    assert all(math.isfinite(value) and value >= 0 for value in losses.values())


def settings_of(name: str, target: str) -> dict[str, Any]:
    own: dict[str, Any] = {"term": name}
    if name != "ce":
        own["target"] = target
    if name == "contrastive":
        own |= {"num_negatives": 16, "embed_dim": 8}
    return own
