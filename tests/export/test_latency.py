"""Latencies are medians of the rounds that were timed, and say what was measured."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from richkd.core.errors import ConfigError, ModelError
from richkd.export import latency
from richkd.export.latency import benchmark_all, run_benchmark
from richkd.export.run import ExportSettings, export_student
from tests.export.students import make_student
from tests.fixtures import refusal


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_student(tmp_path_factory.mktemp("runs") / "small" / "student")


@pytest.fixture(scope="module")
def artifact(student: Path) -> Path:
    return export_student(str(student), ExportSettings("pt2", student.parent / "small.pt2")).files[0]


def test_medians_of_known_times(artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[tuple[int, ...], np.dtype[Any]]] = []

    def run(self: object, inputs: NDArray[Any]) -> list[NDArray[Any]]:
        calls.append((inputs.shape, inputs.dtype))
        time.sleep(0.02 * len(inputs))
        return []

    monkeypatch.setattr("richkd.export.formats.pt2.Pt2Program.run", run)
    result = run_benchmark(str(artifact), batches=(1, 3), rounds=4, warmup=2, picture=(30, 40))
    assert [row.batch for row in result.batches] == [1, 3]
    for row in result.batches:
        assert 20 * row.batch <= row.low <= row.median <= row.high
        assert row.median < 20 * row.batch + 60
        assert row.images_per_second == pytest.approx(1000 * row.batch / row.median)
        assert row.rounds == 4
    # Warm-up batches are not among the rounds.
    assert len(calls) == 2 * (4 + 2)
    assert calls[0] == ((1, 30, 40, 3), np.dtype(np.uint8))
    assert result.input == "uint8 pictures of 30 x 40 px, with preprocessing"
    assert result.bytes == artifact.stat().st_size


def test_slow_models_end_after_fewer_rounds(artifact: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("richkd.export.formats.pt2.Pt2Program.run", lambda self, inputs: time.sleep(0.01))
    monkeypatch.setattr(latency, "SECONDS", 0.001)
    (row,) = run_benchmark(str(artifact), batches=(1,), rounds=30, warmup=0).batches
    assert row.rounds == latency.LEAST


def test_a_student_and_its_artifact_say_what_they_are(student: Path, artifact: Path) -> None:
    before = torch.get_num_threads()
    ours, theirs = benchmark_all([str(student), str(artifact)], threads=2, batches=(2,), rounds=2, warmup=1)
    assert torch.get_num_threads() == before
    assert (ours.threads, theirs.threads, ours.warmup) == (2, 2, 1)
    assert ours.runtime.startswith("PyTorch ")
    assert theirs.runtime.startswith("torch ")
    assert ours.bytes == sum((student / name).stat().st_size for name in ("config.json", "model.safetensors"))
    assert ours.input == "normalized pixels, 16 x 16"
    assert ours.to_dict()["batches"][0]["batch"] == 2


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"batches": (1, 0)}, "--batch"),
        ({"batches": ()}, "--batch"),
        ({"threads": 0}, "--threads"),
        ({"rounds": 0}, "--rounds"),
        ({"warmup": -1}, "--warmup"),
        ({"picture": (1, 0)}, "--picture"),
        ({"picture": (1,)}, "--picture"),
    ],
)
def test_wrong_numbers_are_refused(artifact: Path, settings: dict[str, Any], text: str) -> None:
    error = refusal(benchmark_all, [str(artifact)], **settings)
    assert isinstance(error, ConfigError)
    assert text in error.rule


def test_pictures_of_a_student_and_no_model_are_refused(student: Path) -> None:
    assert "--picture" in refusal(benchmark_all, [str(student)], picture=(30, 40)).rule
    assert isinstance(refusal(benchmark_all, []), ConfigError)


@pytest.mark.parametrize("error", [RuntimeError("DefaultCPUAllocator: can't\nallocate"), MemoryError()])
def test_a_batch_that_fails_is_named(
    student: Path, artifact: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*arguments: object) -> None:
        raise error

    monkeypatch.setattr("richkd.export.formats.pt2.Pt2Program.run", fail)
    monkeypatch.setattr("richkd.models.build.Network.forward", fail)
    for model, fix in (
        (artifact, "use a smaller --batch or --picture."),
        (student, "use a smaller --batch."),
    ):
        refused = refusal(run_benchmark, str(model), batches=(2000,), rounds=1, warmup=0)
        assert isinstance(refused, ModelError)
        assert refused.rule.startswith(f"{model}: a batch of 2,000 inputs of shape ")
        assert refused.rule.endswith(" failed")
        assert str(refused.got).startswith(type(error).__name__)
        assert "\n" not in str(refused.got)
        assert refused.fix == fix


def test_a_batch_that_cannot_be_made_is_named(artifact: Path) -> None:
    refused = refusal(run_benchmark, str(artifact), batches=(10**15,), rounds=1, warmup=0)
    assert isinstance(refused, ModelError)
