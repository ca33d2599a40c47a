"""Measure a few real training steps, without a run folder."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import torch
from accelerate import Accelerator

from richkd.core.types import Batch
from richkd.data.order import in_order
from richkd.data.views import render
from richkd.pipeline.assemble import Parts
from richkd.teachers.predict import BATCH
from richkd.training.run_folder import RunFolder
from richkd.training.trainer import Trainer

with contextlib.suppress(ImportError):
    # Not on Windows.
    import resource

# The first steps reserve memory and compile. Long steps are measured for half a minute only.
WARM_UP, STEPS, SECONDS = 2, 20, 30.0
# Batches for which computing and reading teacher outputs are compared.
COMPARED = 3


@dataclass(frozen=True)
class MeasuredSteps:
    """What steps of a run cost on this machine.

    Attributes:
        steps: number of steps that were measured.
        images: images of a step.
        seconds: seconds of a step that reads all teacher outputs that a cache can hold.
        computing: seconds that a step takes longer if it has to compute these outputs.
        evaluating: seconds to evaluate the student on a held-out image.
        peak_bytes: memory that was in use at most: that of the process, or on the GPU; 0 if unknown.
    """

    steps: int
    images: int
    seconds: float
    computing: float
    evaluating: float
    peak_bytes: int


def measure_steps(parts: Parts) -> MeasuredSteps:
    """Do the first steps of the run, which changes its student.

    Raises:
        DeviceMemoryError: the batch does not fit in memory; names the setting to change.
        NonFiniteError: a loss is NaN or infinite.
    """
    with TemporaryDirectory(prefix="richkd-") as folder:
        accelerator = Accelerator(cpu=parts.device.type == "cpu")
        trainer = Trainer(parts, accelerator, RunFolder(Path(folder)))
        stored, computed = _time_steps(trainer)
        computing = _computing(trainer)
        evaluating = _evaluating(trainer)
    seconds = _reading(stored, computed, computing)
    done = len(stored) + len(computed)
    return MeasuredSteps(
        done, trainer.order.images_of_step, seconds, computing, evaluating, _peak(parts.device)
    )


def _reading(stored: list[float], computed: list[float], computing: float) -> float:
    """Seconds of a step that reads outputs; where none did, those of others without the computing."""
    if stored:
        return median(stored)
    # Both times are noisy, and no step takes no time.
    return max(median(computed) - computing, 0.1 * median(computed))


def _time_steps(trainer: Trainer) -> tuple[list[float], list[float]]:
    """Seconds of steps that read all teacher outputs, and of those that had to compute some."""
    times: list[tuple[float, bool]] = []
    trainer.task.train()
    began = last = time.perf_counter()
    for batch in _batches(trainer):
        computes = _lacks(trainer, batch)
        trainer.train_step(batch.to(trainer.device))
        _finish(trainer.device)
        trainer.step += 1
        now = time.perf_counter()
        times.append((now - last, computes))
        last = now
        if len(times) == WARM_UP + STEPS or (len(times) > WARM_UP and now - began > SECONDS):
            break
    trainer.detector.check()
    measured = times[WARM_UP:] or times
    return [s for s, computes in measured if not computes], [s for s, computes in measured if computes]


def _batches(trainer: Trainer) -> Iterator[Batch]:
    """The batches of the whole run; as many are prepared ahead as in a run."""
    for epoch in range(trainer.config.train.epochs):
        yield from trainer.parts.training_batches(epoch, trainer.order.epoch(epoch)[: WARM_UP + STEPS])


def _lacks(trainer: Trainer, batch: Batch) -> bool:
    parts, epoch = trainer.parts, trainer.epoch
    views = parts.augmentation.draw(parts.config.train.seed, epoch, batch.index_B)
    cached = (t for t in parts.teachers if t.caches and t not in parts.mapped_teachers)
    return any(teacher.lacks("train", batch.index_B, views) for teacher in cached)


def _computing(trainer: Trainer) -> float:
    """Median of the seconds that computing the outputs for a batch takes longer than reading them."""
    parts, longer = trainer.parts, list[float]()
    for epoch in range(trainer.config.train.epochs if any(t.caches for t in parts.teachers) else 0):
        # All images have new views in an epoch with a new view, so its last batches are as good as others.
        trainer.step = epoch * trainer.order.steps
        for batch in parts.training_batches(epoch, trainer.order.epoch(epoch)[-COMPARED:]):
            if _lacks(trainer, batch):
                first, second = (_teach(trainer, batch) for _ in range(2))
                longer.append(max(first - second, 0.0))
        if longer:
            break
    return median(longer) if longer else 0.0


def _teach(trainer: Trainer, batch: Batch) -> float:
    began = time.perf_counter()
    trainer.losses.targets(batch, trainer.step)
    _finish(trainer.device)
    return time.perf_counter() - began


def _evaluating(trainer: Trainer) -> float:
    """Seconds per image of an evaluation, from one batch of a held-out split."""
    stores, student = trainer.parts.stores, trainer.shipped
    names = [name for name in stores.names if name != "train"]
    if not names:
        return 0.0
    store = stores.clean(names[0])
    student.eval()
    began, images = time.perf_counter(), 0
    with torch.inference_mode():
        for batch in store.batches(in_order(len(store.split), BATCH)[:1]):
            batch = batch.to(trainer.device)
            views = store.clean.draw(0, 0, batch.index_B)
            student(render(batch.pixels_BHWC, views, student.size, student.mean, student.std))
            images += len(batch)
    _finish(trainer.device)
    return (time.perf_counter() - began) / images


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _peak(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if sys.platform == "win32":
        return 0
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
