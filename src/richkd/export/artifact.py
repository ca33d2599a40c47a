"""Use an exported student: the same classes and probabilities as the student's, from any format."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from richkd.config.choices import FORMATS
from richkd.core.errors import ConfigError, ModelError, RichKDError, nearest
from richkd.core.finite import refuse_non_finite_rows
from richkd.core.presence import exists, is_dir, stat_error
from richkd.core.regular_files import check_regular
from richkd.core.visible import one_line
from richkd.data.framing import frame
from richkd.export.description import Description
from richkd.export.format import Opened, format_named, format_of
from richkd.export.from_checkpoint import Which
from richkd.export.images import ImageLike, name_of_image, rgb_of
from richkd.export.student import BATCH, load_student

# Pixels of all pictures of a batch: the graph needs twelve bytes for each of them.
PIXELS = 1 << 24


class Classifier(Protocol):
    """What predicts the classes of images: a student, or an artifact of one."""

    @property
    def class_names(self) -> tuple[str, ...]: ...

    @property
    def note(self) -> str | None: ...

    def probabilities(self, images: Sequence[ImageLike]) -> Tensor:
        """Class probabilities (B, C), float32 on the CPU; see `Student.probabilities`."""
        ...


@dataclass(frozen=True)
class Artifact:
    """An exported student in a runtime; made by `load_artifact`.

    Attributes:
        path: its file.
        format: name of its format.
        description: classes, preprocessing, temperature and origin.
        opened: the graph in its runtime.
    """

    path: Path
    format: str
    description: Description
    opened: Opened

    @property
    def class_names(self) -> tuple[str, ...]:
        """Names of the classes, in the order of the outputs."""
        return self.description.class_names

    @property
    def note(self) -> str | None:
        """An artifact is that of a finished student."""
        return None

    def probabilities(self, images: Sequence[ImageLike]) -> Tensor:
        """Class probabilities (B, C), float32 on the CPU.

        Args:
            images: as for `Student.probabilities`. Pictures of one size that follow each other share a batch.

        Raises:
            DataError: see `Student.probabilities`.
            ModelError: the graph fails, or has other outputs than its description says.
            NonFiniteError: the outputs for an image are NaN or infinite; names the images.
        """
        return self.outputs(images)[0]

    def outputs(self, images: Sequence[ImageLike]) -> tuple[Tensor, Tensor]:
        """Class probabilities and logits (B, C); see `probabilities`. Logits are before the temperature."""
        empty = torch.empty(0, len(self.class_names))
        parts = [(empty, empty), *(self._outputs(batch) for batch in self._batches(images))]
        probabilities_BC, logits_BC = (torch.cat(column) for column in zip(*parts, strict=True))
        refuse_non_finite_rows(
            logits_BC,
            f"artifact {self.path}",
            lambda row: name_of_image(images[row], row),
            "export the student again; if it remains, the numbers are too large for the precision.",
        )
        return probabilities_BC, logits_BC

    def _batches(self, images: Sequence[ImageLike]) -> Iterator[NDArray[Any]]:
        """The images as inputs of the graph, in order."""
        pictures = (self._input(rgb_of(image)) for image in images)
        for shape, group in itertools.groupby(pictures, key=lambda array: array.shape):
            most = max(1, min(BATCH, PIXELS // max(1, shape[0] * shape[1])))
            yield from (np.stack(part) for part in _chunks(group, most))

    def _input(self, image: Image.Image) -> NDArray[Any]:
        return normalized(image, self.description) if self.description.raw else np.asarray(image)

    def _outputs(self, inputs: NDArray[Any]) -> tuple[Tensor, Tensor]:
        try:
            outputs = [torch.from_numpy(np.array(part)) for part in self.opened.run(inputs)]
        except Exception as error:
            raise _unusable(self.path, f"inputs of shape {inputs.shape}: {one_line(error)}") from error
        expected = (len(inputs), len(self.class_names))
        count = 1 if self.description.raw else 2
        if [tuple(part.shape) for part in outputs] != [expected] * count:
            shapes = ", ".join(str(tuple(part.shape)) for part in outputs)
            raise _unusable(self.path, f"outputs of shape {shapes} for {count} of shape {expected}")
        logits_BC = outputs[-1].float()
        if self.description.raw:
            return (logits_BC / self.description.temperature).softmax(dim=1), logits_BC
        return outputs[0].float(), logits_BC


def normalized(image: Image.Image, about: Description) -> NDArray[np.float32]:
    """The input (3, size, size) of a network, float32."""
    pixels_HWC = np.asarray(frame(image, about.framing), dtype=np.float32) / 255
    mean, std = (np.asarray(values, dtype=np.float32) for values in (about.mean, about.std))
    return np.ascontiguousarray(((pixels_HWC - mean) / std).transpose(2, 0, 1))


def load_artifact(path: str | Path, threads: int | None = None) -> Artifact:
    """Open an artifact of ``richkd export``.

    Args:
        path: its file.
        threads: number of threads of the runtime; by default that of PyTorch.

    Raises:
        ConfigError: the suffix is that of no format, or a package of the format is missing.
        ModelError: the file is missing, damaged, or was not written by ``richkd export``.
    """
    path = Path(path)
    name = format_of(path)
    if name is None:
        suffixes = [FORMATS[one].suffix for one in FORMATS]
        raise ConfigError(
            f"The artifact {path} must have the suffix of a format",
            got=path.suffix or "no suffix",
            fix=nearest(path.suffix, suffixes, f"They are {', '.join(suffixes)}."),
        )
    if not exists(path):
        got = stat_error(path) or "no such file"
        raise ModelError(f"The artifact {path} must exist", got=got, fix="check the path.")
    format = format_named(name)
    try:
        check_regular(path)
        opened = format.open(path, threads or torch.get_num_threads())
        description = Description.from_texts(opened.texts)
    except RichKDError:
        raise
    except Exception as error:
        raise ModelError(
            f"{path} must be an artifact of `richkd export`",
            got=f"{type(error).__name__}: {one_line(error)}",
            fix="export the student again.",
        ) from None
    return Artifact(path, name, description, opened)


def open_classifier(model: str, checkpoint: Which | None = None) -> Classifier:
    """Open a student, or an artifact if the name has the suffix of a format and is no folder.

    Raises:
        ConfigError: a checkpoint of an artifact is asked for.
        RichKDError: see `richkd.export.student.load_student` and `load_artifact`.
    """
    if format_of(model) is None or is_dir(model):
        return load_student(model, checkpoint)
    if checkpoint is not None:
        raise ConfigError(
            f"--checkpoint {checkpoint} needs the folder of a run",
            got=f"the artifact {model}",
            fix="export with --checkpoint, and use the artifact without it.",
        )
    return load_artifact(model)


def _chunks(items: Iterator[NDArray[Any]], most: int) -> Iterator[list[NDArray[Any]]]:
    while part := list(itertools.islice(items, most)):
        yield part


def _unusable(path: Path, got: str) -> ModelError:
    return ModelError(
        f"{path} must compute what its description says", got=got, fix="export the student again."
    )
