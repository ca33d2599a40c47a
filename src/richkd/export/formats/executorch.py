"""ExecuTorch: PyTorch's runtime for phones and small devices, with XNNPACK for the convolutions.

It has the network alone. XNNPACK accepts a batch of any length up to a limit, for which memory is reserved
when the file is opened, but not the products of preprocessing, whose lengths depend on the picture.
"""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from richkd.config.choices import FORMATS
from richkd.core.files import write_atomically
from richkd.core.json_text import to_json
from richkd.core.structured import parse_json
from richkd.export.graph import Graph

# Largest batch.
MOST = {"batch": 8}
# Name of a method that returns the description, a text.
DESCRIPTION = "description"


@dataclass(frozen=True)
class ExecutorchProgram:
    """A program in ExecuTorch."""

    method: Any
    texts: Mapping[str, str]
    runtime: str
    # The program is freed with its runtime, although the method needs both.
    keep: tuple[Any, ...]

    def run(self, inputs: NDArray[Any]) -> Sequence[NDArray[np.float32]]:
        parts = [
            self.method.execute([torch.from_numpy(part.copy())])
            for part in np.split(inputs, range(MOST["batch"], len(inputs), MOST["batch"]))
        ]
        # The outputs are in memory that the next call uses again.
        return [
            np.concatenate([part.numpy().copy() for part in column]) for column in zip(*parts, strict=True)
        ]


@FORMATS.register("executorch", "one file for phones, with --raw only")
class Executorch:
    """Files of ExecuTorch; the description is the result of the method ``description``."""

    suffix: ClassVar[str] = ".pte"
    packages: ClassVar[tuple[str, ...]] = ("executorch.exir", "executorch.runtime")
    extra: ClassVar[str | None] = "executorch"
    raw_only: ClassVar[bool] = True
    tolerance: ClassVar[float] = 0.01

    def write(self, graph: Graph, path: Path, texts: Mapping[str, str]) -> str:
        from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
        from executorch.exir import to_edge_transform_and_lower
        from executorch.version import __version__

        level = logging.root.manager.disable
        logging.disable(logging.WARNING)
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                edge = to_edge_transform_and_lower(
                    replace(graph, most=MOST).program(),
                    partitioner=[XnnpackPartitioner()],
                    constant_methods={DESCRIPTION: to_json(dict(texts))},
                )
                content = bytes(edge.to_executorch().buffer)
        finally:
            logging.disable(level)
        write_atomically(path, content)
        return f"ExecuTorch {__version__}"

    def open(self, path: Path, threads: int) -> ExecutorchProgram:
        from executorch.runtime import Runtime
        from executorch.version import __version__

        runtime = Runtime.get()
        program = runtime.load_program(path)
        (text,) = program.load_method(DESCRIPTION).execute([])
        method = program.load_method("forward")
        return ExecutorchProgram(method, parse_json(text), f"ExecuTorch {__version__}", (runtime, program))
