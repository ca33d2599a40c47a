"""OpenVINO: Intel's runtime for processors, graphics and NPUs. An ``.xml`` with a ``.bin`` beside it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from richkd.config.choices import FORMATS
from richkd.export.graph import Graph

# Section of the runtime information that has the description.
SECTION = "richkd"


@dataclass(frozen=True)
class OpenvinoModel:
    """A model in OpenVINO, on the CPU."""

    compiled: Any
    texts: Mapping[str, str]
    runtime: str

    def run(self, inputs: NDArray[Any]) -> Sequence[NDArray[np.float32]]:
        results = self.compiled([inputs])
        return [np.array(results[output]) for output in self.compiled.outputs]


@FORMATS.register("openvino", "an .xml and a .bin for Intel processors, graphics and NPUs")
class Openvino:
    """Files of OpenVINO; the description is in the runtime information of the model."""

    suffix: ClassVar[str] = ".xml"
    packages: ClassVar[tuple[str, ...]] = ("openvino",)
    extra: ClassVar[str | None] = "openvino"
    raw_only: ClassVar[bool] = False
    tolerance: ClassVar[float] = 0.05

    def write(self, graph: Graph, path: Path, texts: Mapping[str, str]) -> str:
        import openvino

        # OpenVINO 2026.4 converts a branch of the graph without an error, but to another result.
        model = openvino.convert_model(graph.without_branches().program())
        model.inputs[0].set_names({graph.input_name})
        for output, name in zip(model.outputs, graph.output_names, strict=True):
            output.set_names({name})
        for name, text in texts.items():
            # A text that looks like a number would be read as one.
            model.set_rt_info(json.dumps(text), [SECTION, name])
        # Weights would be rounded to 16 bits otherwise.
        openvino.save_model(model, path, compress_to_fp16=False)
        return f"OpenVINO {openvino.__version__.partition('-')[0]}"

    def open(self, path: Path, threads: int) -> OpenvinoModel:
        import openvino

        core = openvino.Core()
        model = core.read_model(path)
        stored = model.get_rt_info(SECTION).value
        texts = {name: json.loads(text) for name, text in stored.items()}
        # The processor's own choice for float32 can be bfloat16.
        options = {"INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": "f32"}
        compiled = core.compile_model(model, "CPU", options)
        return OpenvinoModel(compiled, texts, f"OpenVINO {openvino.__version__.partition('-')[0]}")
