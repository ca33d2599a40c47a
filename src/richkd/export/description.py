"""What an artifact says about itself: classes, input, temperature and origin, as texts by name.

Every format stores the texts in its own metadata, so that a program without this package can read them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from richkd.core.checksums import hash_file
from richkd.core.json_text import to_json
from richkd.core.structured import parse_json, read_json
from richkd.core.versions import package_version
from richkd.data.framing import RESAMPLING, Framing
from richkd.data.views import RGB
from richkd.export.places import name_of
from richkd.export.student import Student
from richkd.models.saved import CONFIG

VERSION = "richkd_version"
FLOAT32, INT8 = "float32", "int8"


@dataclass(frozen=True)
class Description:
    """What a program needs to use an artifact, and where it comes from.

    Attributes:
        version: version of this package that wrote it.
        class_names: names of the classes, in the order of the outputs.
        temperature: divisor of the logits before the softmax.
        framing: how the input of the network is cut out of a picture.
        mean, std: normalization of each color channel, for values in [0, 1].
        raw: whether preprocessing, temperature and softmax are left out.
        precision: ``"float32"``, or ``"int8"`` for a quantized network.
        source: name of the folder of the student, and the SHA-256 of its files.
        training: what the student's ``config.json`` says about its training.

    Example:
        >>> first = Description("0.2.0", ("ant", "bee"), 1.5, Framing(8), (0.5,) * 3, (0.25,) * 3)
        >>> sorted(first.to_texts())[:3], Description.from_texts(first.to_texts()) == first
        (['class_names', 'precision', 'preprocessing'], True)
    """

    version: str
    class_names: tuple[str, ...]
    temperature: float
    framing: Framing
    mean: RGB
    std: RGB
    raw: bool = False
    precision: str = FLOAT32
    source: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)

    def to_texts(self) -> dict[str, str]:
        """The description as texts by name; all but the version and the precision are JSON."""
        framing = self.framing
        preprocessing = {
            "in_graph": not self.raw,
            "input": "float32 N x 3 x size x size, normalized" if self.raw else "uint8 N x H x W x 3, RGB",
            "size": framing.size,
            "resized_short_side": framing.resized,
            "crop_pct": framing.crop_pct,
            "crop_mode": framing.crop_mode,
            "interpolation": framing.interpolation,
            "mean": list(self.mean),
            "std": list(self.std),
        }
        return {
            VERSION: self.version,
            "class_names": to_json(list(self.class_names)),
            "temperature": to_json(self.temperature),
            "preprocessing": to_json(preprocessing),
            "precision": self.precision,
            "source": to_json(self.source),
            "training": to_json(self.training),
        }

    @classmethod
    def from_texts(cls, texts: Mapping[str, str]) -> Description:
        """The description that was written by `to_texts`.

        Raises:
            ValueError, LookupError, TypeError: a text is missing or has another form.
        """
        names, cut = parse_json(texts["class_names"]), parse_json(texts["preprocessing"])
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise ValueError("class_names must be a list of texts")
        temperature, size = float(parse_json(texts["temperature"])), int(cut["size"])
        mean, std = (tuple(map(float, cut[name])) for name in ("mean", "std"))
        positive = (temperature, size, cut["crop_pct"], *std)
        if len(mean) != 3 or len(std) != 3 or not all(0 < number < float("inf") for number in positive):
            raise ValueError("temperature, size, crop_pct, mean and std must be positive numbers")
        if cut["interpolation"] not in RESAMPLING:
            raise ValueError(f"no interpolation {cut['interpolation']}")
        return cls(
            texts[VERSION],
            tuple(names),
            temperature,
            Framing(size, float(cut["crop_pct"]), cut["interpolation"], cut["crop_mode"] == "squash"),
            mean,
            std,
            raw=not cut["in_graph"],
            precision=texts["precision"],
            source=dict(parse_json(texts["source"])),
            training=dict(parse_json(texts["training"])),
        )


def describe(student: Student, path: str | Path, **more: Any) -> Description:
    """The description of a student that was loaded from a path; ``more`` are other fields.

    Example:
        >>> import tempfile
        >>> from richkd.config.schema import ModelConfig
        >>> from richkd.export.student import load_student, save_student
        >>> from richkd.models.build import build_network
        >>> network = build_network(ModelConfig(name="cifar_resnet8", size=8), 2, role="student")
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_student(f"{folder}/small/student", network, ("ant", "bee"), 1.5, {"method": "kd"})
        ...     description = describe(load_student(f"{folder}/small"), f"{folder}/small")
        >>> description.source["name"], description.training, len(description.source["sha256"])
        ('small', {'temperature': 1.5, 'method': 'kd'}, 64)
    """
    network, files = student.network, student.files
    lines = "".join(f"{hash_file(file)}  {file.name}\n" for file in files)
    described = next((file for file in files if file.name == CONFIG), None)
    training: dict[str, Any] = {} if described is None else read_json(described).get("richkd") or {}
    return Description(
        package_version(),
        student.class_names,
        student.temperature,
        network.framing,
        network.mean,
        network.std,
        source={
            "name": name_of(path),
            "architecture": network.blueprint.architecture,
            "files": [file.name for file in files],
            # Of the lines that `sha256sum` prints for these files.
            "sha256": hashlib.sha256(lines.encode()).hexdigest(),
        },
        training=json.loads(to_json(training)),
        **more,
    )
