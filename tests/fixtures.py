"""A small world for runs: noisy images of three classes, a saved teacher, a CLIP's stored outputs."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from richkd.config.loading import load_config
from richkd.config.schema import Config, ModelConfig
from richkd.core.errors import RichKDError
from richkd.export.student import save_student
from richkd.models.build import build_network

CLASSES = ("ant", "bee", "cow")
SIZE = 16
WIDTH = 12
# 16 training images a class, of which a quarter is held out, leave 4 steps of 8 images an epoch.
TRAIN, TEST, STEPS = 16, 4, 4
COLORS = ((200, 60, 60), (60, 200, 60), (60, 60, 200))


@dataclass(frozen=True)
class World:
    """Paths of the small world."""

    images: Path
    clip: Path
    teacher: Path

    def settings(self, out: Path, **changes: Any) -> dict[str, Any]:
        """Dotted settings of a short RichKD L+F run; ``__`` in a name of ``changes`` stands for a dot.

        Teacher, CLIP and contrastive settings are given only if the method reads them, because otherwise they
        are refused. ``changes`` win, and None removes a setting. A list under ``objective`` adds nothing.
        """
        given = {name.replace("__", "."): value for name, value in changes.items()}
        method, variant = given.get("method.name") or "richkd", given.get("method.variant") or "lf"
        target = given.get("objective.kd.target")
        settings: dict[str, Any] = {
            "data.path": str(self.images),
            "data.val_fraction": 0.25,
            "student.name": "cifar_resnet8",
            "student.size": SIZE,
            "optim.lr": 0.02,
            "train.epochs": 3,
            "train.batch_size": 8,
            "train.precision": "fp32",
            "train.workers": 0,
            "out": str(out),
        }
        if isinstance(given.get("objective"), list):
            method = "ce"
        if method != "ce" and target != "clip":
            settings["teachers.1.name"] = f"local-dir:{self.teacher}"
            # A measured precision could differ between two runs that are compared.
            settings["train.teacher_precision"] = "fp32"
        if method == "richkd" or target == "clip":
            settings["clip.name"] = f"outputs:{self.clip}"
        if method == "richkd" and "f" in variant:
            settings |= {"objective.contrastive.num_negatives": 32, "objective.contrastive.embed_dim": 8}
        settings |= given
        if settings.get("teachers.1.name") is None and "train.teacher_precision" not in given:
            settings.pop("train.teacher_precision", None)
        return {name: value for name, value in settings.items() if value is not None}

    def config(self, out: Path, **changes: Any) -> Config:
        return load_config(None, self.settings(out, **changes))

    def options(self, out: Path, **changes: Any) -> list[str]:
        """The same settings for the command line."""
        selected = self.settings(out, **changes)
        return [word for name, value in selected.items() for word in (f"--{name}", str(value))]


def make_world(root: Path) -> World:
    make_images(root / "images")
    make_clip(root / "clip.npz", root / "images")
    make_teacher(root / "teacher")
    return World(root / "images", root / "clip.npz", root / "teacher")


def make_images(root: Path, classes: tuple[str, ...] = CLASSES, seed: int = 0) -> None:
    """Folders train/ and test/ of noisy PNGs, each class around a color of its own."""
    random = np.random.default_rng(seed)
    for split, count in (("train", TRAIN), ("test", TEST)):
        for name, color in zip(classes, COLORS, strict=False):
            folder = root / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                noise_HWC = random.normal(0, 50, (SIZE, SIZE, 3))
                pixels_HWC = (np.array(color) + noise_HWC).clip(0, 255).astype(np.uint8)
                Image.fromarray(pixels_HWC).save(folder / f"{number}.png")


def keys_of(images: Path) -> list[str]:
    return sorted(file.relative_to(images).as_posix() for file in images.rglob("*.png"))


def make_clip(path: Path, images: Path, *, leave_out: int = 0, poison: int | None = None) -> None:
    """Stored CLIP outputs that lean towards the right class; ``poison`` puts a NaN into that row."""
    random = np.random.default_rng(1)
    text_CD = random.normal(size=(len(CLASSES), WIDTH)).astype(np.float32)
    keys = keys_of(images)[leave_out:]
    labels_N = np.array([CLASSES.index(key.split("/")[1]) for key in keys])
    image_ND = text_CD[labels_N] + random.normal(size=(len(keys), WIDTH)).astype(np.float32)
    if poison is not None:
        image_ND[poison, 0] = np.nan
    np.savez(path, image_features=image_ND, text_features=text_CD, classnames=np.array(CLASSES), files=keys)


def make_outputs(path: Path, images: Path, **changes: Any) -> dict[str, Any]:
    """A vision teacher's outputs of whole images, mostly right; ``changes`` replace or drop (None) arrays."""
    random = np.random.default_rng(2)
    keys = keys_of(images)
    labels_N = np.array([CLASSES.index(key.split("/")[1]) for key in keys])
    logits_NC = 3 * np.eye(len(CLASSES))[labels_N] + random.normal(size=(len(keys), len(CLASSES)))
    arrays = {
        "logits": logits_NC.astype(np.float16),
        "features": random.normal(size=(len(keys), WIDTH)).astype(np.float32),
        "classnames": np.array(CLASSES),
        "files": np.array(keys),
    }
    selected = {name: array for name, array in (arrays | changes).items() if array is not None}
    np.savez(path, **selected)
    return selected


def make_teacher(folder: Path, classes: tuple[str, ...] = CLASSES, seed: int = 5) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = build_network(ModelConfig(name="cifar_resnet8", size=SIZE), len(classes), role="teacher")
    save_student(folder, network, classes, 1.0, {})


class PlainNet(nn.Module):
    """A network without batch statistics, so that a batch's gradient is the mean of its images' gradients."""

    num_features = 6

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, self.num_features, 3, 2, 1)
        self.fc = nn.Linear(self.num_features, num_classes)

    def forward_features(self, pixels_B3HW: Tensor) -> Tensor:
        map_BFHW: Tensor = self.stem(pixels_B3HW)
        return map_BFHW.relu()

    def forward_head(self, map_BFHW: Tensor, pre_logits: bool = False) -> Tensor:
        feats_BF = map_BFHW.mean(dim=(2, 3))
        logits_BC: Tensor = feats_BF if pre_logits else self.fc(feats_BF)
        return logits_BC

    def get_classifier(self) -> nn.Module:
        return self.fc


def refusal(function: Any, *args: Any, **kwargs: Any) -> RichKDError:
    """The error that a call ends with; fails where there is none."""
    try:
        function(*args, **kwargs)
    except RichKDError as error:
        return error
    raise AssertionError("nothing was refused")


def command(*words: str) -> list[str]:
    """The command line as a process of its own, whatever is installed."""
    return [sys.executable, "-c", "from richkd.cli import main; main()", *words]


def without_waits(text: str) -> str:
    """Standard error without the lines that say what a command is waiting for, as on a slow machine."""
    return "".join(line for line in text.splitlines(keepends=True) if not line.endswith(" s so far\n"))


def one_thread() -> dict[str, str]:
    """An environment whose sums are in the order of this process's, and which prints at once."""
    return {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}


def flip_bit(path: Path, bit: int) -> None:
    """Change one bit of a file, as a bad disk does."""
    content = bytearray(path.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)
