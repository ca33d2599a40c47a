"""The benchmark of growth runs, at sizes that say nothing of speed."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def growth() -> Any:
    """The script, whose neighbors are found beside it as when it is run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(BENCHMARKS))
        before = set(sys.modules)
        import growth

        yield growth
        # Their names are too common to be left to other tests.
        for name in set(sys.modules) - before:
            if is_benchmark(sys.modules[name]):
                del sys.modules[name]


def is_benchmark(module: ModuleType) -> bool:
    return Path(getattr(module, "__file__", None) or "/").parent == BENCHMARKS


@pytest.fixture
def small(growth: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The part that takes steps, with the smallest networks."""
    steps = growth.growth_steps
    changes = {"student.name": "cifar_resnet8", "train.batch_size": 4}
    monkeypatch.setattr(steps, "COMMON", steps.COMMON | changes)
    monkeypatch.setattr(steps, "TEACHER", "cifar_resnet8")
    monkeypatch.setattr(steps, "NEGATIVES", 16)
    monkeypatch.setattr(steps, "IMAGES", 200)
    return steps


def test_a_loss_is_timed_at_every_size(small: Any) -> None:
    assert set(small.images(1, {"shared": (100, 200)})["shared"]) == {100, 200}
    assert set(small.negatives(1, (4, 8))["queue"]) == {4, 8}


@pytest.mark.slow
def test_a_step_is_timed_at_every_size(small: Any) -> None:
    assert set(small.classes(1, (2, 3), 12)["cached step"]) == {2, 3}
    assert set(small.prompts(1, 120)["cached step"]) == {1, 12, 80}


def test_a_caches_bytes_grow_with_its_views(growth: Any) -> None:
    stored = growth.growth_runs.views(1, counts=(1, 3), images=70)["bytes of an image"]
    assert stored[3] - stored[1] == pytest.approx(2 * 720, rel=0.01)


@pytest.mark.slow
def test_evaluation_and_epoch_are_scaled(growth: Any, small: Any) -> None:
    assert all(seconds > 0 for seconds in growth.growth_runs.evaluation(1, 120, 8).values())


def test_ratios_follow_from_the_curves(growth: Any) -> None:
    """The ratios of the stored results, from their curves."""
    stored = json.loads((BENCHMARKS / "results" / "growth.json").read_text(encoding="utf-8"))
    curves = {
        part: {name: {int(x): y for x, y in curve.items()} for name, curve in stored[part].items()}
        for part in ("images", "negatives", "classes", "prompts", "text", "views")
    }
    assert growth.ratios(stored | curves) == pytest.approx(stored["ratios"])
