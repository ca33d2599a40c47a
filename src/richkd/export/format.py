"""What a format of artifacts is: how a graph is written to a file, and how the file is opened."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from richkd.config.choices import FORMATS
from richkd.core.errors import ConfigError
from richkd.core.visible import one_line
from richkd.export.graph import Graph


class Opened(Protocol):
    """An artifact in a runtime.

    Attributes:
        texts: its description; see `richkd.export.description.Description`.
        runtime: name and version of the runtime, for people.
    """

    @property
    def texts(self) -> Mapping[str, str]: ...

    @property
    def runtime(self) -> str: ...

    def run(self, inputs: NDArray[Any]) -> Sequence[NDArray[np.float32]]:
        """The outputs of the graph for one input, in order."""
        ...


class Format(Protocol):
    """A format of artifacts. Implementations are registered in `richkd.export.formats`, one in each module.

    Attributes:
        suffix: suffix of the file that names an artifact.
        packages: modules that must be importable.
        extra: extra of this package that installs them; None if they are always installed.
        tolerance: largest difference of a probability from the student's that is accepted by default. Pixels
            are bit-equal where a runtime has float64 and branches; the order of float32 sums then changes
            probabilities by about 1e-5. Elsewhere, some pixels are rounded otherwise.
        raw_only: whether it can have the network alone only, without preprocessing and softmax.
    """

    suffix: ClassVar[str]
    packages: ClassVar[tuple[str, ...]]
    extra: ClassVar[str | None]
    raw_only: ClassVar[bool]
    tolerance: ClassVar[float]

    def write(self, graph: Graph, path: Path, texts: Mapping[str, str]) -> str:
        """Write a graph and its description to a file in an empty folder.

        Files beside it may be written if their names start with the name of ``path`` without its suffix.

        Returns:
            The version of the format, for people.
        """
        ...

    def open(self, path: Path, threads: int) -> Opened:
        """Open a file with this number of threads; raises any exception if it is damaged."""
        ...


def format_named(name: str) -> Format:
    """A format whose packages are installed.

    Raises:
        ConfigError: there is no such format, or a package is missing; says how to install it.

    Example:
        >>> format_named("pt2").suffix
        '.pt2'
    """
    format: Format = FORMATS[name]()
    for package in format.packages:
        try:
            importlib.import_module(package)
        except ImportError as error:
            raise ConfigError(
                f"The format {name} needs the package {package}",
                got=one_line(error),
                fix=f"in a clone of richkd: pip install '.[{format.extra}]'",
            ) from None
    return format


def format_of(path: str | Path) -> str | None:
    """The name of the format that the suffix of a file means; None if it means no format.

    Example:
        >>> format_of("small.onnx"), format_of("runs/small")
        ('onnx', None)
    """
    suffix = Path(path).suffix.lower()
    return next((name for name in FORMATS if FORMATS[name].suffix == suffix), None)
