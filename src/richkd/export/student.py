"""Save and load students: a folder with weights, class names, preprocessing and temperature.

``timm.create_model("local-dir:FOLDER", pretrained=True)`` loads the network, with the constructor arguments
that it was built with. ``config.json`` has timm's format. Entries that timm does not define (the fitted
temperature and the origin of the model) are under ``richkd``. The networks for 32-pixel images are registered
with timm by ``import richkd.models``. A network of a callable is loaded by this package only. ``SHA256SUMS``
has the hash of every file (`richkd.core.checksums`).
"""

from __future__ import annotations

import copy
import errno
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from timm.models import save_for_hf
from torch import Tensor

from richkd.config.model_name import parse_model_name
from richkd.config.schema import ModelConfig
from richkd.core.checksums import write_hashes
from richkd.core.errors import ModelError, NonFiniteError
from richkd.core.files import not_written, write_atomically
from richkd.core.finite import refuse_non_finite_rows
from richkd.core.json_text import to_json
from richkd.core.structured import read_json
from richkd.core.temporary import temporary_folder
from richkd.core.tensor_files import encode_tensors
from richkd.core.types import Output
from richkd.core.visible import one_line
from richkd.data.augmentations import Clean
from richkd.data.framing import frame
from richkd.data.views import render
from richkd.export.from_checkpoint import (
    DESCRIPTION,
    Which,
    find_checkpoint,
    note_of_longer_run,
    pretrained_cfg_of,
    read_student_checkpoint,
)
from richkd.export.images import ImageLike, name_of_image, rgb_of
from richkd.export.places import folder_of
from richkd.models.build import Network, build_network
from richkd.models.create import RESERVED, WRITTEN_BY_TIMM
from richkd.models.saved import CONFIG, WEIGHTS, check_saved, saved_folder

# Images per forward pass.
BATCH = 64
# What a missing or damaged description of a network raises.
UNDESCRIBED = (OSError, ValueError, LookupError, TypeError, AttributeError)


@dataclass(frozen=True)
class Student:
    """A trained classifier with its class names and temperature.

    Attributes:
        network: the network, in evaluation mode.
        class_names: names of the classes, in the order of the logits.
        temperature: divisor of the logits before the softmax; fitted on held-out images.
        note: which checkpoint of a run it is, for a student that is not the result of a finished run.
        files: the files that it was read from: a checkpoint, or ``config.json`` and the weights.

    Example:
        >>> from PIL import Image
        >>> config = ModelConfig(name="cifar_resnet8", size=16)
        >>> network = build_network(config, classes=2, role="student").eval()
        >>> student = Student(network, ("ant", "bee"), temperature=1.0)
        >>> probs_BC = student.probabilities([Image.new("RGB", (20, 30), "red")])
        >>> tuple(probs_BC.shape), round(float(probs_BC.sum()), 4)
        ((1, 2), 1.0)
    """

    network: Network
    class_names: tuple[str, ...]
    temperature: float
    note: str | None = None
    files: tuple[Path, ...] = ()

    def probabilities(self, images: Sequence[ImageLike]) -> Tensor:
        """Class probabilities softmax(z / temperature) (B, C), float32 on the CPU.

        Args:
            images: paths of image files, PIL images, or uint8 arrays (H, W), (H, W, 3) or (H, W, 4). The
                short side is resized to the input size, then the center square is cropped. An image has the
                same result as its file: orientation, transparency and 16-bit grayscale are converted alike.

        Raises:
            DataError: a file cannot be read as an image (the message contains its path), or an array has
                another type or shape.
            NonFiniteError: the network's outputs for an image are NaN or infinite; names the images.
        """
        parts = [self._probabilities(images[i : i + BATCH]) for i in range(0, len(images), BATCH)]
        return torch.cat(parts) if parts else torch.empty(0, len(self.class_names))

    def _probabilities(self, images: Sequence[ImageLike]) -> Tensor:
        network = self.network
        squares = [frame(rgb_of(image), network.framing) for image in images]
        pixels_BHWC = torch.stack(
            [torch.frombuffer(bytearray(s.tobytes()), dtype=torch.uint8) for s in squares]
        )
        pixels_BHWC = pixels_BHWC.view(len(squares), network.size, network.size, 3)
        views = Clean(network.size).draw(0, 0, torch.arange(len(squares)))
        with torch.inference_mode():
            output: Output = network(render(pixels_BHWC, views, network.size, network.mean, network.std))
        logits_BC = output.logits_BC.float().cpu()
        refuse_non_finite_rows(
            logits_BC,
            f"student {network.name}",
            lambda row: name_of_image(images[row], row),
            "its weights are finite, but its outputs are not: its numbers are too large for its precision.",
        )
        return (logits_BC / self.temperature).softmax(dim=1)


def save_student(
    folder: str | Path,
    network: Network,
    class_names: Sequence[str],
    temperature: float,
    origin: dict[str, Any],
) -> None:
    """Write a student to a folder. ``config.json`` is written last, so a folder that has it is complete.

    ``SHA256SUMS`` has the hashes of both files; they are checked when the folder is loaded.

    Args:
        folder: the folder; it is created, and existing files of a student are replaced.
        network: the network.
        class_names: names of the classes, in the order of the logits.
        temperature: divisor of the logits before the softmax.
        origin: information about the training; stored under ``richkd`` in ``config.json``.

    Raises:
        CheckpointError: the folder cannot be written.

    Example:
        >>> import tempfile
        >>> network = build_network(ModelConfig(name="cifar_resnet8", size=16), 2, role="student")
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_student(folder, network, ("ant", "bee"), temperature=1.5, origin={})
        ...     sorted(path.name for path in Path(folder).iterdir())
        ['SHA256SUMS', 'config.json', 'model.safetensors']
    """
    folder = Path(folder)
    config = {
        "num_classes": len(class_names),
        "label_names": list(class_names),
        "pretrained_cfg": pretrained_cfg_of(network),
        "model_args": {k: v for k, v in network.blueprint.args.items() if k not in WRITTEN_BY_TIMM},
        "richkd": {"temperature": temperature, **origin},
    }
    with _scratch(folder, network) as scratch:
        # timm does not write atomically, so its files are written to a temporary folder first.
        save_for_hf(_saveable(network), scratch, model_config=config, safe_serialization=True)
        written = json.loads((scratch / CONFIG).read_text(encoding="utf-8"))
        # timm writes the size that a flexible model was built for, instead of that of its images.
        written["pretrained_cfg"]["input_size"] = [3, network.size, network.size]
        if _is_callable(network):
            # timm adds arguments that its own constructors have.
            written["model_args"] = dict(network.blueprint.args)
        weights = encode_tensors(load_file(scratch / WEIGHTS))
    text = f"{to_json(written, indent=2)}\n".encode()
    write_atomically(folder / WEIGHTS, weights)
    write_hashes(folder, {WEIGHTS: weights, CONFIG: text})
    write_atomically(folder / CONFIG, text)


@contextmanager
def _scratch(folder: Path, network: Network) -> Iterator[Path]:
    try:
        with temporary_folder(folder) as scratch:
            yield scratch
    except (OSError, SafetensorError) as error:
        size = sum(tensor.nbytes for tensor in network.state_dict().values())
        # The library of safetensors reports a full disk as an error of its own.
        reason = error if isinstance(error, OSError) else OSError(errno.EIO, one_line(error))
        raise not_written(folder / WEIGHTS, size, reason) from error


def load_student(path: str | Path, checkpoint: Which | None = None) -> Student:
    """Load the student of a run.

    Args:
        path: the run folder, its folder ``student/``, or a checkpoint in its folder ``checkpoints/``;
            ``local-dir:`` may precede it. ``hf-hub:OWNER/REPO`` is a student on the Hugging Face hub.
        checkpoint: load the student of the ``"best"`` or ``"last"`` checkpoint of the run. The last one is
            also used for a run that has no student yet. `Student.note` then says which one it is.

    Raises:
        ModelError: there is no student, or its files are damaged or changed.
        CheckpointError: there is no such checkpoint, or it cannot be read.
        NonFiniteError: a weight, the temperature or the normalization is NaN or infinite; names the file.

    Example:
        >>> import tempfile
        >>> network = build_network(ModelConfig(name="cifar_resnet8", size=16), 2, role="student")
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_student(folder, network, ("ant", "bee"), temperature=1.5, origin={})
        ...     student = load_student(folder)
        >>> student.class_names, student.temperature
        (('ant', 'bee'), 1.5)
    """
    folder = folder_of(path)
    if (file := find_checkpoint(folder, checkpoint)) is not None:
        return _from_checkpoint(file)
    folder = saved_folder(folder)
    check_saved(folder)
    try:
        saved = read_json(folder / CONFIG)
        class_names, temperature = _names_and_temperature(saved)
        config = _config_of(saved, folder / WEIGHTS)
    except UNDESCRIBED as error:
        raise ModelError(
            f"{folder} must be a student's folder with {CONFIG} and {WEIGHTS}",
            got=f"{type(error).__name__}: {one_line(error)}",
            fix="pass a run folder, or the student/ folder in it.",
        ) from None
    _check_numbers(folder / CONFIG, temperature, config)
    network = build_network(config, len(class_names), role="student").eval().requires_grad_(False)
    files = (folder / CONFIG, folder / WEIGHTS)
    return Student(network, class_names, temperature, note_of_longer_run(folder.parent), files)


def _from_checkpoint(path: Path) -> Student:
    description, checkpoint, file, name = read_student_checkpoint(path)
    try:
        class_names = tuple(description["label_names"])
        config = _config_of(description, None)
    except UNDESCRIBED as error:
        raise ModelError(
            f"{file.parent / DESCRIPTION} must describe the network of the checkpoints",
            got=f"{type(error).__name__}: {error}",
            fix="give a checkpoint in the folder checkpoints/ of a run.",
        ) from None
    network = build_network(config, len(class_names), role="student")
    # The averaged weights are those that the run saves in the end.
    tensors = checkpoint.part("average") or checkpoint.part("task.student")
    try:
        network.load_state_dict(tensors)
    except RuntimeError as error:
        raise ModelError(
            f"{file} must hold the weights of the network in {DESCRIPTION}",
            got=str(error).splitlines()[-1].strip(),
            fix="give a checkpoint in the folder checkpoints/ of a run.",
        ) from None
    note = f"{name}; its temperature is not fitted"
    return Student(network.eval().requires_grad_(False), class_names, 1.0, note, (file,))


def _config_of(saved: dict[str, Any], weights: Path | None) -> ModelConfig:
    """The settings of the network that a ``config.json`` describes."""
    cfg = saved["pretrained_cfg"]
    return ModelConfig(
        name=saved["architecture"],
        weights=weights,
        size=cfg["input_size"][-1],
        mean=cfg["mean"],
        std=cfg["std"],
        crop_pct=cfg.get("crop_pct", 1.0),
        crop_mode="squash" if cfg.get("crop_mode") == "squash" else "center",
        interpolation=cfg.get("interpolation", "bicubic"),
        args={k: v for k, v in (saved.get("model_args") or {}).items() if k not in RESERVED},
    )


def _check_numbers(file: Path, temperature: float, config: ModelConfig) -> None:
    """Check the numbers that divide logits and pixels."""
    for name, values in (("temperature", (temperature,)), ("std", config.std or ())):
        if not all(0 < value < float("inf") for value in values):
            raise NonFiniteError(
                f"{file} must have a positive and finite {name}",
                got=", ".join(map(str, values)),
                fix="copy the student's folder again, or correct the file.",
            )


def _names_and_temperature(saved: dict[str, Any]) -> tuple[tuple[str, ...], float]:
    names = saved["label_names"]
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError("label_names must be a list of texts")
    return tuple(names), float(saved.get("richkd", {}).get("temperature", 1.0))


def _is_callable(network: Network) -> bool:
    return parse_model_name(network.blueprint.architecture).kind == "callable"


def _saveable(network: Network) -> Any:
    """What timm needs to save a network: weights on the CPU in the default memory format, and attributes.

    A callable can return a timm model with other layers. So its network is described as the callable, and
    never as the timm model.
    """
    weights = {
        # Copies, because safetensors refuses tensors that share their memory.
        key: tensor.cpu().clone(memory_format=torch.contiguous_format)
        for key, tensor in network.model.state_dict().items()
    }
    cfg = {
        "architecture": network.blueprint.architecture,
        "input_size": (3, network.size, network.size),
    }
    if _is_callable(network) or not getattr(network.model, "pretrained_cfg", None):
        return SimpleNamespace(
            state_dict=lambda: weights,
            pretrained_cfg=cfg,
            num_classes=network.classes,
            num_features=network.feature_width,
        )
    # A shallow copy has the attributes of the model.
    model = copy.copy(network.model)
    cast(Any, model).state_dict = lambda: weights
    return model
