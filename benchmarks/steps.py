"""A step of the trainer as a call, and data to take it on: real ones, or random ones of any shape.

A step's time does not depend on the values of pixels, weights or CLIP features, so all three may be random.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import chain, cycle
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from accelerate import Accelerator
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from richkd.config.schema import Config, ModelConfig
from richkd.core.precision import precisions_of
from richkd.core.types import Batch
from richkd.data.formats.hub import quiet
from richkd.data.stores import Stores
from richkd.models.build import build_network
from richkd.pipeline.assemble import Parts, assemble
from richkd.training.run_folder import RunFolder
from richkd.training.trainer import Trainer

STUDENT, TEACHER = "cifar_resnet8x4", "cifar_resnet32x4"
CLIP_WIDTH, BATCHES = 768, 8
CPU = torch.device("cpu")
# Encoded images that a random data set repeats: as many as it takes for none to stay in a cache.
DIFFERENT_IMAGES = 1000
COMMON: dict[str, Any] = {
    "data.val_fraction": 0,
    "student.name": STUDENT,
    "train.trackers": [],
    # By itself a run as long as the default compiles, which is a contender of its own here.
    "train.compile": "never",
    # A measured choice could differ between contenders.
    "train.precision": precisions_of(CPU)[-1],
}

Call = Callable[[], object]


def our_step(config: Config, folder: Path, stores: Stores | None = None, device: torch.device = CPU) -> Call:
    """A step of the trainer, over the same few batches again and again, gathered anew each time.

    ``stores`` are the decoded images where another contender has them already.
    """
    parts = assemble(config, device)
    parts = replace(parts, stores=stores or parts.stores)
    trainer = Trainer(parts, Accelerator(cpu=device.type == "cpu"), RunFolder(folder))
    trainer.task.train()
    groups = trainer.order.epoch(0)[:BATCHES]
    batches = _batches(parts, groups)

    def step() -> None:
        trainer.train_step(next(batches).to(device))
        trainer.step = (trainer.step + 1) % len(groups)

    return step


def _batches(parts: Parts, groups: list[Tensor]) -> Iterator[Batch]:
    for group in cycle(groups):
        yield from parts.training_batches(0, [group])


def write_teacher(path: Path, classes: int, name: str) -> dict[str, Any]:
    """The settings of a teacher with random weights, which are saved to a file."""
    network = build_network(ModelConfig(name=name), classes, role="teacher")
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(network.model.state_dict(), path)
    precision = {"train.teacher_precision": precisions_of(CPU)[-1]}
    return {"teachers.1.name": name, "teachers.1.weights": str(path), **precision}


def write_clip(path: Path, config: Config) -> None:
    """Random CLIP outputs for every image of the data."""
    parts = assemble(config, CPU)
    keys = list(chain.from_iterable(split.keys() for split in parts.data.splits.values()))
    random = np.random.default_rng(0)
    np.savez(
        path,
        image_features=random.standard_normal((len(keys), CLIP_WIDTH), dtype=np.float32).astype(np.float16),
        text_features=random.standard_normal((len(parts.data.class_names), CLIP_WIDTH), dtype=np.float32),
        classnames=np.array(parts.data.class_names),
        files=np.array(keys),
    )


def write_images(folder: Path, *, images: int, classes: int, size: int = 32) -> None:
    """A training split of noise as parquet, its classes equally large."""
    random = np.random.default_rng(0)
    encoded = []
    for _ in range(min(images, DIFFERENT_IMAGES)):
        content = io.BytesIO()
        pixels_HWC = random.integers(256, size=(size, size, 3), dtype=np.uint8)
        Image.fromarray(pixels_HWC).save(content, format="png")
        encoded.append({"bytes": content.getvalue(), "path": None})
    names = [f"kind of thing number {i}" for i in range(classes)]
    columns = {
        "image": [encoded[i % len(encoded)] for i in range(images)],
        "label": [i % classes for i in range(images)],
    }
    features = datasets.Features(
        {"image": datasets.Image(decode=False), "label": datasets.ClassLabel(names=names)}
    )
    folder.mkdir(parents=True)
    rows = datasets.Dataset.from_dict(columns, features=features)
    with quiet():
        rows.to_parquet(str(folder / "train-00000-of-00001.parquet"))
