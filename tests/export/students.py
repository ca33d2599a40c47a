"""A saved student with weights that tell classes apart, and photos of several sizes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from richkd.config.schema import ModelConfig
from richkd.export.student import save_student
from richkd.models.build import build_network

CLASSES = ("ant", "bee, wild", "Käfer")
SHAPES = ((20, 24), (20, 24), (41, 30), (16, 16), (70, 20))


def make_student(
    folder: Path,
    name: str = "cifar_resnet8",
    size: int = 16,
    temperature: float = 1.5,
    classes: Sequence[str] = CLASSES,
) -> Path:
    """A student whose probabilities depend on the image; random weights give nearly constant ones."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        network = build_network(ModelConfig(name=name, size=size), len(classes), role="student")
        network.train()
        with torch.no_grad():
            for _ in range(20):
                # Statistics of batch normalization that belong to pixels.
                network(torch.randn(16, 3, size, size))
            network.model.get_classifier().weight.mul_(8)
    save_student(folder, network, tuple(classes), temperature, {"method": "kd", "note": "\u202eabc"})
    return folder


def make_photos(folder: Path) -> Path:
    """Smooth pictures of several sizes with noise."""
    random = np.random.default_rng(0)
    folder.mkdir(parents=True)
    for number, (height, width) in enumerate(SHAPES):
        coarse = Image.fromarray(random.integers(0, 256, (4, 5, 3), dtype=np.uint8))
        coarse.resize((width, height), Image.Resampling.BICUBIC).save(folder / f"{number}.png")
    return folder
