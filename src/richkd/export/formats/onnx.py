"""ONNX: one file that onnxruntime runs on servers, phones and in browsers."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from richkd.config.choices import FORMATS
from richkd.core.errors import ModelError
from richkd.core.files import write_atomically
from richkd.export.graph import Graph

# What onnxruntime has run since 2023, and what PyTorch writes without a conversion.
OPSET = 18
# Largest protobuf message; weights beyond it would need a second file.
LARGEST = 2**31 - 1


@dataclass(frozen=True)
class OnnxSession:
    """An ONNX file in onnxruntime, on the CPU."""

    session: Any
    texts: Mapping[str, str]
    runtime: str

    def run(self, inputs: NDArray[Any]) -> Sequence[NDArray[np.float32]]:
        outputs: list[NDArray[np.float32]] = self.session.run(
            None, {self.session.get_inputs()[0].name: inputs}
        )
        return outputs


@FORMATS.register("onnx", "one file for onnxruntime: servers, phones, browsers")
class Onnx:
    """Files of ONNX; the description is in the metadata of the model."""

    suffix: ClassVar[str] = ".onnx"
    packages: ClassVar[tuple[str, ...]] = ("onnx", "onnxscript", "onnxruntime")
    extra: ClassVar[str | None] = "onnx"
    raw_only: ClassVar[bool] = False
    tolerance: ClassVar[float] = 0.01

    def write(self, graph: Graph, path: Path, texts: Mapping[str, str]) -> str:
        """Write one file without external data.

        Raises:
            ModelError: the weights have more than 2 GiB.
        """
        model = to_onnx(graph)
        save_model(model, path, texts)
        return f"opset {OPSET}"

    def open(self, path: Path, threads: int) -> OnnxSession:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        # Errors only: what fails is raised, and warnings about unused initializers are no news.
        options.log_severity_level = 3
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        texts = session.get_modelmeta().custom_metadata_map
        return OnnxSession(session, texts, f"onnxruntime {onnxruntime.__version__}")


def to_onnx(graph: Graph) -> Any:
    """A graph as a model of ONNX, without metadata and names of files of this machine.

    Raises:
        ModelError: the weights have more than 2 GiB.
    """
    import torch

    size = sum(tensor.nbytes for tensor in graph.module.state_dict().values())
    if size >= LARGEST:
        raise ModelError(
            "The weights of a student must have less than 2 GiB in one file of ONNX",
            got=f"{size / 2**30:.1f} GiB",
            fix="use --to pt2.",
        )
    with _quiet():
        program = torch.onnx.export(
            graph.program(),
            opset_version=OPSET,
            input_names=[graph.input_name],
            output_names=list(graph.output_names),
            verbose=False,
        )
        assert program is not None
        _name_axes(program.model, graph)
        model = program.model_proto
    _drop_debugging(model)
    return model


def save_model(model: Any, path: Path, texts: Mapping[str, str]) -> None:
    """Write a model of ONNX with its description."""
    del model.metadata_props[:]
    for name, text in texts.items():
        entry = model.metadata_props.add()
        entry.key, entry.value = name, text
    write_atomically(path, model.SerializeToString(deterministic=True))


def _name_axes(model: Any, graph: Graph) -> None:
    """Give the axes that can vary the names of the graph, in place of symbols such as ``s34``."""
    shape = model.graph.inputs[0].shape
    symbols = {str(shape[axis]): name for axis, name in graph.dynamic.items()}
    for value in (*model.graph.inputs, *model.graph.outputs):
        if value.shape is not None:
            for axis, dim in enumerate(value.shape):
                if str(dim) in symbols:
                    value.shape[axis] = symbols[str(dim)]


def _drop_debugging(model: Any) -> None:
    """Remove what PyTorch notes about the origin of each operation, with paths of this machine."""
    for part in (model, model.graph, *model.graph.node, *model.functions):
        part.doc_string = ""
        del part.metadata_props[:]
    for value in (*model.graph.initializer, *model.graph.value_info, *model.graph.input, *model.graph.output):
        value.doc_string = ""
        del value.metadata_props[:]
    for function in model.functions:
        for node in function.node:
            node.doc_string = ""
            del node.metadata_props[:]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Context in which the exporter prints nothing."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
