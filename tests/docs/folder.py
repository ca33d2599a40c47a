"""A working folder in which the names that the documentation uses exist."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
from PIL import Image

from richkd.training.run import distill
from tests.docs.blocks import ROOT
from tests.fixtures import CLASSES, make_world


def make_working_folder(folder: Path) -> None:
    """photos/, a teacher, CLIP outputs, recipe.yaml, a finished run, and the recipes of the project."""
    world = make_world(folder)
    (folder / "photos").symlink_to(world.images.name)
    (folder / "recipes").symlink_to(ROOT / "recipes")
    image = sorted(world.images.rglob("*.png"))[0]
    shutil.copy(image, folder / "holiday.jpg")
    files = sorted((world.images / "train").rglob("*.png"))
    labels = [CLASSES.index(file.parent.name) for file in files]
    np.savez(
        folder / "photos.npz",
        images=np.stack([np.asarray(Image.open(file)) for file in files]),
        labels=labels,
    )
    config = world.config(folder / "runs" / "small", method__name="kd", train__epochs=1)
    (folder / "recipe.yaml").write_text(config.to_yaml(), encoding="utf-8")
    distill(config, quiet=True)
