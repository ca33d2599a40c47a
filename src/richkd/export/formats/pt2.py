"""PyTorch's own format of exported programs, for Python with PyTorch but without this package."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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

# File of the description in the archive.
TEXTS = "richkd.json"


@dataclass(frozen=True)
class Pt2Program:
    """An exported program in PyTorch, on the CPU."""

    module: Any
    texts: Mapping[str, str]
    threads: int
    runtime: str = f"torch {torch.__version__}"

    def run(self, inputs: NDArray[Any]) -> Sequence[NDArray[np.float32]]:
        before = torch.get_num_threads()
        torch.set_num_threads(self.threads)
        try:
            with torch.inference_mode():
                outputs = self.module(torch.from_numpy(inputs))
        finally:
            torch.set_num_threads(before)
        return [part.numpy() for part in (outputs if isinstance(outputs, tuple) else (outputs,))]


@FORMATS.register("pt2", "exported program for torch.export.load, without this package")
class Pt2:
    """Files of ``torch.export.save``; the description is the extra file ``richkd.json``."""

    suffix: ClassVar[str] = ".pt2"
    packages: ClassVar[tuple[str, ...]] = ("torch",)
    extra: ClassVar[str | None] = None
    raw_only: ClassVar[bool] = False

    def write(self, graph: Graph, path: Path, texts: Mapping[str, str]) -> str:
        content = io.BytesIO()
        torch.export.save(graph.program(), content, extra_files={TEXTS: to_json(dict(texts))})
        write_atomically(path, content.getvalue())
        return f"torch.export of PyTorch {torch.__version__}"

    def open(self, path: Path, threads: int) -> Pt2Program:
        _refuse_pickles(path)
        extra = {TEXTS: ""}
        program = torch.export.load(path, extra_files=extra)
        return Pt2Program(program.module(), parse_json(extra[TEXTS]), threads)


def _refuse_pickles(path: Path) -> None:
    """Refuse archives with objects that PyTorch would create by running code of the file.

    Raises:
        ValueError: there are such objects.
        OSError, zipfile.BadZipFile: the file cannot be read as an archive.
    """
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            if name.endswith("_config.json"):
                entries = json.loads(archive.read(name)).get("config", {})
                pickled = [key for key, entry in entries.items() if entry.get("use_pickle")]
                if pickled:
                    raise ValueError(f"objects that run code when they are loaded: {', '.join(pickled[:3])}")
            elif "/sample_inputs/" in name:
                torch.load(io.BytesIO(archive.read(name)), weights_only=True)
