"""How a step's time grows with images, negatives, classes and prompts.

Each function returns curves by name, each of them median seconds by what grows.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable, Sequence
from itertools import count as count_from
from pathlib import Path
from typing import Any

import open_clip
import torch
from safetensors.torch import save_file
from steps import BATCHES, CLIP_WIDTH, COMMON, CPU, TEACHER, our_step, write_clip, write_images, write_teacher
from timing import medians
from torch import Tensor

from richkd.config.loading import load_config
from richkd.config.schema import Config
from richkd.core.precision import autocast_dtype, precisions_of
from richkd.core.types import Batch
from richkd.losses.features import normalize
from richkd.losses.memory_bank import ContrastMemory, ContrastSettings
from richkd.teachers.clip.model import PRECISIONS, Clip
from richkd.teachers.clip.prompts import build_prompts, templates

BATCH, NEGATIVES, IMAGES, WIDTH, CLASSES = 64, 16384, 50_000, 128, 100
KINDS = ("memory-bank", "shared", "queue")
MOST_NEGATIVES = (4096, 16384, 65536)
# What a "memory-bank" step costs grows with the images, and beyond these it is not meant for them.
IMAGES_OF_KIND = {
    "memory-bank": (50_000, 200_000),
    "shared": (50_000, 200_000, 1_280_000),
    "queue": (50_000, 200_000, 1_280_000),
}
# By the number of prompts of a class, the set of templates that has as many.
PROMPTS = {1: "simple", 12: "paper", 80: "openai"}
Curve = dict[int, float]


def images(rounds: int, sizes: dict[str, Sequence[int]] | None = None) -> dict[str, Curve]:
    """The contrastive loss with its own negatives, forward and backward, by training images."""
    curves: dict[str, Curve] = {}
    # One kind at a time, for the banks of the largest data set alone take a gigabyte.
    for kind, counts in (sizes or IMAGES_OF_KIND).items():
        calls = {str(count): contrast_step(kind, _labels(count), NEGATIVES) for count in counts}
        curves[kind] = _by_number(medians(calls, rounds))
    return curves


def negatives(rounds: int, counts: Sequence[int] = MOST_NEGATIVES) -> dict[str, Curve]:
    """The same at 50,000 images, by negatives of an image."""
    curves: dict[str, Curve] = {}
    for kind in KINDS:
        calls = {str(count): contrast_step(kind, _labels(IMAGES), count) for count in counts}
        curves[kind] = _by_number(medians(calls, rounds))
    return curves


def classes(
    rounds: int, counts: Sequence[int] = (100, 300, 1000), image_count: int = IMAGES
) -> dict[str, Curve]:
    """A whole cached step of RichKD L+F on as many images of noise, by classes of the data."""
    with tempfile.TemporaryDirectory() as temporary:
        calls = {}
        for count in counts:
            folder = Path(temporary) / str(count)
            calls[str(count)] = our_step(cached_config(folder, count, image_count), folder / "run")
        return {"cached step": _by_number(medians(calls, rounds, warmup=BATCHES))}


def prompts(rounds: int, image_count: int = IMAGES) -> dict[str, Curve]:
    """The same step with a CLIP in memory, by prompts of each of 100 classes.

    The CLIP is a small one with random weights. Its image features come from the teacher cache, and its class
    embeddings are computed before the first step, so that its own size enters no step.
    """
    with tempfile.TemporaryDirectory() as temporary:
        folder, calls = Path(temporary), {}
        write_small_clip(folder / "clip")
        config = cached_config(folder, CLASSES, image_count)
        for count, name in PROMPTS.items():
            clip = {"name": f"local-dir:{folder / 'clip'}", "prompts": name, "cache": folder / "cache"}
            changed = Config.model_validate(config.model_dump() | {"clip": clip})
            calls[str(count)] = our_step(changed, folder / f"run-{count}")
        return {"cached step": _by_number(medians(calls, rounds, warmup=BATCHES))}


def text(model_name: str = "ViT-B-32", class_count: int = CLASSES) -> dict[str, Curve]:
    """Class embeddings by prompts of each class, computed once each by a text tower with random weights."""
    dtype = autocast_dtype(precisions_of(CPU)[-1]) or torch.float32
    model = open_clip.create_model(model_name, pretrained=None, precision=PRECISIONS[dtype])
    clip = Clip(
        model,
        open_clip.get_tokenizer(model_name),
        name=model_name,
        config=open_clip.get_model_config(model_name),
        dtype=dtype,
    )
    names = [f"kind of thing number {i}" for i in range(class_count)]
    curve: Curve = {}
    clip.embed_prompts(build_prompts(names, templates("simple")))
    for count, of_templates in PROMPTS.items():
        of_classes = build_prompts(names, templates(of_templates))
        began = time.perf_counter()
        clip.embed_prompts(of_classes)
        curve[count] = time.perf_counter() - began
    return {f"embedding the texts, {model_name}, {PRECISIONS[dtype]}": curve}


def contrast_step(kind: str, labels_N: Tensor, count: int, *, half: bool = True) -> Callable[[], None]:
    """The contrastive loss of a batch, its backward pass, and what is remembered of it."""
    settings = ContrastSettings(WIDTH, kind, count)  # type: ignore[arg-type]
    memory = ContrastMemory(256, (256, CLIP_WIDTH), labels_N, CLASSES, settings, 0)
    index_B = torch.arange(BATCH)
    batch = Batch("train", index_B, torch.zeros(BATCH, 1, 1, 3, dtype=torch.uint8), labels_N[:BATCH])
    student_BD, target_BD = (normalize(torch.randn(BATCH, WIDTH)).requires_grad_() for _ in range(2))
    numbers = count_from(0)

    def call() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=half):
            loss = memory.loss(student_BD, target_BD, batch, next(numbers))
        loss.backward()
        memory.remember(index_B, student_BD.detach(), target_BD.detach())

    return call


def cached_config(folder: Path, class_count: int, image_count: int) -> Config:
    """Settings of a cached RichKD L+F run on noise and random CLIP outputs, written to ``folder``."""
    write_images(folder / "data", images=image_count, classes=class_count)
    plain: dict[str, Any] = COMMON | {"data.path": str(folder / "data"), "method.name": "ce"}
    write_clip(folder / "clip.npz", load_config(overrides=plain))
    rich = (
        plain
        | write_teacher(folder / "teacher.safetensors", class_count, TEACHER)
        | {
            "method.name": "richkd",
            "clip.name": f"outputs:{folder / 'clip.npz'}",
            "fusion.preset": "paper",
            "objective.contrastive.num_negatives": NEGATIVES,
            "cache.dir": str(folder / "cache"),
        }
    )
    return load_config(overrides=rich)


def write_small_clip(folder: Path) -> None:
    """A CLIP of two layers with random weights, and with features as wide as ViT-L's."""
    config = {
        "embed_dim": CLIP_WIDTH,
        "vision_cfg": {"image_size": 32, "patch_size": 8, "width": 64, "head_width": 32, "layers": 2},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 2, "layers": 2},
    }
    pixels = {"size": 32, "mode": "RGB", "mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
    model = open_clip.CLIP(**config)
    folder.mkdir(parents=True)
    described = json.dumps({"model_cfg": config, "preprocess_cfg": pixels})
    (folder / "open_clip_config.json").write_text(described, encoding="utf-8")
    tensors = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    save_file(tensors, folder / "open_clip_model.safetensors")


def _labels(count: int) -> Tensor:
    return torch.arange(count) % CLASSES


def _by_number(seconds: dict[str, float]) -> Curve:
    return {int(number): value for number, value in seconds.items()}
