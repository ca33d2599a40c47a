"""What a GPU adds: no step waits for it, and it learns what a CPU learns, also if kernels are recorded."""

from __future__ import annotations

import itertools
import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState

from richkd.core.interrupt import Interrupted
from richkd.pipeline.assemble import assemble
from richkd.training.run import distill
from richkd.training.run_folder import RunFolder
from richkd.training.trainer import Trainer
from tests.fixtures import STEPS, World
from tests.methods.test_every_term import NAMES, recipe
from tests.training.test_resume import stop_after

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")

GPU, CPU = torch.device("cuda"), torch.device("cpu")
# The first steps reserve memory and choose algorithms.
WARM_UP, MEASURED, COMPARED = 4, 4, 3
RICHKD: dict[str, dict[str, Any]] = {
    "richkd": {},
    "default fusion": {"fusion__preset": "default"},
    "mixup": {"augment__mixup_alpha": 0.2},
    "shared negatives": {"objective__contrastive__negatives": "shared"},
    "queue": {"objective__contrastive__negatives": "queue"},
    "whole pictures": {"augment__policy": "random-resized-crop"},
    "clipped gradients": {"optim__max_grad_norm": 1.0},
    "averaged weights": {"train__ema_decay": 0.9},
    "compiled": {"train__compile": "always", "train__compile_teacher": True},
    "bfloat16": {"train__precision": "bf16", "train__teacher_precision": "bf16"},
}


def settings_of(world: World, out: Path, name: str) -> dict[str, Any]:
    """Settings by the name of a recipe of RichKD, or of a term."""
    return RICHKD[name] if name in RICHKD else recipe(world, out, name, train__epochs=3)


def steps_of(world: World, out: Path, device: torch.device, **changes: Any) -> Iterator[dict[str, float]]:
    """The loss terms of each step of a run, without a run folder."""
    config = world.config(out, **changes, train__device=device.type)
    parts = assemble(config, device)
    AcceleratorState._reset_state(reset_partial_state=True)
    accelerator = Accelerator(cpu=device.type == "cpu")
    trainer = Trainer(parts, accelerator, RunFolder(out))
    trainer.task.train()
    for epoch in range(config.train.epochs):
        for batch in parts.training_batches(epoch, trainer.order.epoch(epoch)):
            yield trainer.train_step(batch)
            trainer.step += 1
    parts.flush_caches()


def waits_of(steps: Iterator[dict[str, float]]) -> list[str]:
    """The lines of code that waited for the GPU, in steps after the first ones."""
    for _ in range(WARM_UP):
        next(steps)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            for _ in range(MEASURED):
                next(steps)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return sorted({f"{w.filename}:{w.lineno}" for w in caught if "called a synch" in str(w.message)})


@pytest.mark.parametrize("name", [*RICHKD, *NAMES])
def test_no_step_waits_for_the_gpu(world: World, tmp_path: Path, name: str) -> None:
    steps = steps_of(world, tmp_path / "run", GPU, **settings_of(world, tmp_path, name))
    assert waits_of(steps) == []


def test_cached_outputs_are_read_without_waiting(world: World, tmp_path: Path) -> None:
    cached = {"cache__dir": str(tmp_path / "cache"), "augment__pad": 0, "augment__flip": False}
    for _ in steps_of(world, tmp_path / "fills", GPU, **cached):
        pass
    steps = steps_of(world, tmp_path / "reads", GPU, **cached)
    assert waits_of(steps) == []


@contextmanager
def full_float32() -> Iterator[None]:
    """Convolutions and products without TF32, which rounds to 10 bits."""
    convolution, product = torch.backends.cudnn.conv, torch.backends.cuda.matmul
    before = convolution.fp32_precision, product.fp32_precision
    convolution.fp32_precision = product.fp32_precision = "ieee"
    try:
        yield
    finally:
        convolution.fp32_precision, product.fp32_precision = before


def losses(world: World, out: Path, device: torch.device, **changes: Any) -> list[dict[str, float]]:
    """The loss terms of the first steps, without the one whose negatives are drawn on the device."""
    steps = itertools.islice(steps_of(world, out, device, **changes), COMPARED)
    return [{name: float(value) for name, value in terms.items() if name != "contrastive"} for terms in steps]


@pytest.mark.parametrize("name", ["richkd", "mixup", "kd", "dkd", "nkd", "reviewkd", "vid", "ofd"])
def test_a_gpu_learns_what_a_cpu_learns(world: World, tmp_path: Path, name: str) -> None:
    settings = settings_of(world, tmp_path, name)
    with full_float32():
        on_gpu = losses(world, tmp_path / "gpu", GPU, **settings)
    on_cpu = losses(world, tmp_path / "cpu", CPU, **settings)
    assert on_gpu[0] == pytest.approx(on_cpu[0], rel=2e-3, abs=1e-5)
    if name in RICHKD:
        return  # other negatives make other weights
    for there, here in zip(on_gpu, on_cpu, strict=True):
        assert there == pytest.approx(here, rel=0.02, abs=1e-5)


@pytest.mark.parametrize("name", ["richkd", "kd", "reviewkd", "crd"])
def test_recorded_kernels_learn_what_others_learn(world: World, tmp_path: Path, name: str) -> None:
    settings = settings_of(world, tmp_path, name)
    compiled = {"train__compile": "always", "train__compile_teacher": True}
    with full_float32():
        plain = list(steps_of(world, tmp_path / "plain", GPU, **settings))
        recorded = list(steps_of(world, tmp_path / "recorded", GPU, **settings, **compiled))
    assert len(plain) == len(recorded)
    for expected, got in zip(plain, recorded, strict=True):
        numbers = {term: float(value) for term, value in expected.items()}
        assert {term: float(value) for term, value in got.items()} == pytest.approx(
            numbers, rel=0.02, abs=1e-3
        )


@pytest.mark.parametrize("name", ["richkd", "kd"])
def test_a_resumed_run_ends_near_one_that_was_not_stopped(world: World, tmp_path: Path, name: str) -> None:
    settings = settings_of(world, tmp_path, name) | {"train__device": "cuda"}
    whole = distill(world.config(tmp_path / "whole", **settings), quiet=True)
    stopped = world.config(tmp_path / "stopped", **settings)
    with pytest.MonkeyPatch.context() as monkeypatch:
        stop_after(monkeypatch, STEPS + 2)
        with pytest.raises(Interrupted):
            distill(stopped, quiet=True)
    again = distill(stopped, resume=True, quiet=True)
    # Kernels of a GPU add in an order that changes, so not even two equal runs have the same bytes.
    expected, got = (read_metrics(run.folder) for run in (whole, again))
    assert [line["step"] for line in got] == [line["step"] for line in expected]
    assert got[-1]["train/kd"] == pytest.approx(expected[-1]["train/kd"], rel=0.05)


def read_metrics(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
