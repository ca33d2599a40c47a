"""The student as an artifact: a folder with weights, classes, preprocessing and temperature.

``timm.create_model("local-dir:FOLDER", pretrained=True)`` loads it. Its ``config.json`` is timm's own
format; what timm has no place for (the fitted temperature, where the model came from) stands under
``richkd``. Networks for 32-pixel images are known to timm after ``import richkd.models``.
"""

from __future__ import annotations

import copy
import json
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from PIL import Image
from timm.models import save_for_hf
from torch import Tensor, nn

from richkd.config.schema import ModelConfig
from richkd.core.errors import ModelError
from richkd.core.files import write_atomically
from richkd.core.types import Output
from richkd.data.augmentations import Clean
from richkd.data.images import decode_rgb, square
from richkd.data.views import render
from richkd.models.build import Network, build_network

WEIGHTS, CONFIG = "model.safetensors", "config.json"


@dataclass(frozen=True)
class Student:
    """A saved classifier, ready to use.

    Attributes:
        network: the network, in evaluation mode.
        class_names: the classes in output order.
        temperature: divides the logits before the softmax; fitted on held-out images.
    """

    network: Network
    class_names: tuple[str, ...]
    temperature: float

    def probabilities(self, images: Sequence[Path | Image.Image]) -> Tensor:
        """Calibrated class probabilities (B, C) of image files or RGB images.

        Raises:
            DataError: naming a file that cannot be read as an image.
        """
        network = self.network
        squares = [square(_rgb(image), network.size) for image in images]
        pixels_BHWC = torch.stack(
            [torch.frombuffer(bytearray(s.tobytes()), dtype=torch.uint8) for s in squares]
        )
        pixels_BHWC = pixels_BHWC.view(len(squares), network.size, network.size, 3)
        views = Clean(network.size).draw(0, 0, torch.arange(len(squares)))
        with torch.inference_mode():
            output: Output = network(render(pixels_BHWC, views, network.size, network.mean, network.std))
        return (output.logits_BC.float() / self.temperature).softmax(dim=1)


def save_student(
    folder: Path, network: Network, class_names: Sequence[str], temperature: float, origin: dict[str, Any]
) -> None:
    """Write a student's folder; its config comes last, so a folder with a config is whole.

    Args:
        origin: what produced the student, kept under ``richkd`` in the config.
    """
    config = {
        "num_classes": len(class_names),
        "label_names": list(class_names),
        "pretrained_cfg": {
            "input_size": (3, network.size, network.size),
            "mean": tuple(network.mean),
            "std": tuple(network.std),
            "interpolation": "bicubic",
            "crop_pct": 1.0,
            "crop_mode": "center",
        },
        "richkd": {"temperature": temperature, **origin},
    }
    with tempfile.TemporaryDirectory() as scratch:
        # timm writes its own format; the files are moved here so that each of them is replaced as a whole.
        save_for_hf(_saveable(network), scratch, model_config=config, safe_serialization=True)
        written = json.loads((Path(scratch) / CONFIG).read_text(encoding="utf-8"))
        write_atomically(folder / WEIGHTS, (Path(scratch) / WEIGHTS).read_bytes())
    text = json.dumps(written, indent=2, ensure_ascii=False)
    write_atomically(folder / CONFIG, f"{text}\n".encode())


def load_student(path: str | Path) -> Student:
    """Load a student that a run saved: its ``student/`` folder, or the run folder itself.

    Raises:
        ModelError: no student there, or a damaged one.
    """
    folder = Path(path)
    if (folder / "student" / CONFIG).is_file():
        folder = folder / "student"
    try:
        saved = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        class_names = tuple(saved["label_names"])
        temperature = float(saved.get("richkd", {}).get("temperature", 1.0))
        cfg = saved["pretrained_cfg"]
        config = ModelConfig(
            name=saved["architecture"],
            weights=folder / WEIGHTS,
            size=cfg["input_size"][-1],
            mean=cfg["mean"],
            std=cfg["std"],
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(
            f"{folder} must be a student's folder with {CONFIG} and {WEIGHTS}",
            got=f"{type(error).__name__}: {error}",
            fix="give a run folder or the student/ folder inside it.",
        ) from None
    network = build_network(config, len(class_names), role="student").eval().requires_grad_(False)
    return Student(network, class_names, temperature)


def _saveable(network: Network) -> nn.Module:
    """A copy on the CPU in the default memory format, with the attributes that timm needs to save it."""
    model = copy.deepcopy(network.model).cpu().to(memory_format=torch.contiguous_format)
    described = cast(Any, model)
    if not getattr(model, "pretrained_cfg", None):
        size = (3, network.size, network.size)
        described.pretrained_cfg = {"architecture": network.name, "input_size": size}
    if not hasattr(model, "num_classes"):
        described.num_classes = network.classes
    return model


def _rgb(image: Path | Image.Image) -> Image.Image:
    return decode_rgb(image, name=str(image)) if isinstance(image, Path) else image.convert("RGB")
