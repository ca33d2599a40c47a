"""PyTorch's own format of exported programs, for Python with PyTorch but without this package."""

from __future__ import annotations

import io
import re
import warnings
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from richkd.config.choices import FORMATS
from richkd.core.archives import check_zip
from richkd.core.files import write_atomically
from richkd.core.json_text import to_json
from richkd.core.structured import parse_json
from richkd.core.visible import visible
from richkd.export.graph import Graph

# File of the description in the archive.
TEXTS = "richkd.json"
# A formula of a length that depends on the input, such as Mul(Integer(3), Symbol('s14', positive=True)).
FORMULA, NAME, LENGTH = re.compile(r"[\w\s(),'=+*/-]*"), re.compile(r"[A-Za-z_]\w*"), re.compile(r"[su]\d+")
# Names that can be in one: numbers, operations, and what is known of a symbol.
SYMPY = {
    *("Symbol", "Integer", "Rational", "Add", "Mul", "Pow", "Mod", "Max", "Min", "True", "False"),
    *("FloorDiv", "CeilDiv", "CleanDiv", "PythonMod", "ModularIndexing", "Identity"),
    *("positive", "nonnegative", "negative", "zero", "integer", "real", "finite"),
}


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
    tolerance: ClassVar[float] = 0.01

    def write(self, graph: Graph, path: Path, texts: Mapping[str, str]) -> str:
        content = io.BytesIO()
        torch.export.save(graph.program(), content, extra_files={TEXTS: to_json(dict(texts))})
        write_atomically(path, content.getvalue())
        return f"torch.export of PyTorch {torch.__version__}"

    def open(self, path: Path, threads: int) -> Pt2Program:
        _refuse_code(path)
        extra = {TEXTS: ""}
        program = torch.export.load(path, extra_files=extra)
        return Pt2Program(program.module(), parse_json(extra[TEXTS]), threads)


def _refuse_code(path: Path) -> None:
    """Refuse archives from which PyTorch would run code: pickled objects, and formulas of lengths.

    Raises:
        ValueError: there is code, or the archive grows to many times its size.
        OSError: the file cannot be read.
        pickle.UnpicklingError: an example of the input has other objects than tensors.
    """
    check_zip(path)
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            if name.endswith("_config.json"):
                entries = parse_json(archive.read(name)).get("config", {})
                pickled = [key for key, entry in entries.items() if entry.get("use_pickle")]
                if pickled:
                    raise ValueError(f"objects that run code when they are loaded: {', '.join(pickled[:3])}")
            elif "/sample_inputs/" in name:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    torch.load(io.BytesIO(archive.read(name)), weights_only=True)
            elif "/models/" in name:
                for formula in _formulas(parse_json(archive.read(name))):
                    unknown = set(NAME.findall(formula)) - SYMPY
                    if not FORMULA.fullmatch(formula) or not all(map(LENGTH.fullmatch, unknown)):
                        raise ValueError(f"a formula that may run code: {visible(formula[:80])}")


def _formulas(content: Any) -> Iterator[str]:
    """The formulas in a program, which SymPy evaluates as Python."""
    parts = [content]
    while parts:
        part = parts.pop()
        if isinstance(part, dict):
            if "expr_str" in part:
                yield str(part["expr_str"])
            parts.extend(part.values())
        elif isinstance(part, list):
            parts.extend(part)
