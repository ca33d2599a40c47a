"""Networks with 8-bit integers: static quantization of ONNX, calibrated on images.

Every convolution has one scale for each of its output channels, because depthwise convolutions, as in
MobileNets and EfficientNets, have channels of very different ranges: with one scale for all channels, an
EfficientNet-Lite0 lost 13 points of accuracy, and with one for each, less than 0.1. Preprocessing and softmax
remain in float32.
"""

from __future__ import annotations

import contextlib
import io
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from richkd.core.errors import ConfigError, ModelError
from richkd.export.artifact import normalized
from richkd.export.comparison import ArtifactComparison
from richkd.export.description import Description
from richkd.export.formats.onnx import save_model, to_onnx
from richkd.export.graph import LOGITS, PIXELS, PROBABILITIES, graph_of, preprocessing_graph
from richkd.export.pictures import Pictures
from richkd.export.student import Student
from richkd.metrics.checks import Figures

# Images of a step of the calibration.
BATCH = 32
# Operations whose inputs and weights become integers.
QUANTIZED = ("Conv", "Gemm", "MatMul")
POINTS = 100.0


@dataclass(frozen=True)
class Int8Settings:
    """How a network is quantized.

    Attributes:
        max_drop: largest loss of accuracy that is accepted, in percentage points.
        calibration: how ranges of activations are found: their minimum and maximum, the 99.999th percentile
            of their absolute values, or the range with the least loss of information.
        images: number of images for the calibration.
        reduce_range: use 7 bits of a weight, for x86 processors without VNNI (before 2019), whose sums of
            products can overflow otherwise.
        float_ends: keep the first and the last layer in float32.
    """

    max_drop: float = 1.0
    calibration: Literal["minmax", "percentile", "entropy"] = "minmax"
    images: int = 256
    reduce_range: bool = False
    float_ends: bool = False

    def check(self) -> None:
        """Check the numbers.

        Raises:
            ConfigError: a number is out of its range.
        """
        if not 0 <= self.max_drop <= POINTS:
            raise ConfigError("--max-drop must be 0 to 100 points", got=str(self.max_drop), fix="use 1.")
        if self.images < 1:
            got = str(self.images)
            raise ConfigError("--calibration-images must be at least 1", got=got, fix="use 256.")


def read_int8_settings(wanted: bool, given: Mapping[str, Any]) -> Int8Settings | None:
    """The settings of given options; None without ``--int8``.

    Raises:
        ConfigError: an option has no effect without ``--int8``.

    Example:
        >>> read_int8_settings(True, {"max_drop": 0.5, "images": None}).max_drop
        0.5
    """
    settings = {name: value for name, value in given.items() if value is not None and value is not False}
    if wanted:
        return Int8Settings(**settings)
    if settings:
        option = {"images": "calibration-images"}.get(name := next(iter(settings)), name.replace("_", "-"))
        raise ConfigError(f"--{option} has no effect without --int8", fix="add --int8, or omit it.")
    return None


@dataclass(frozen=True)
class Int8Result(Figures):
    """What quantization changed.

    Attributes:
        drop: accuracy of the student minus that of the artifact, in percentage points.
        max_drop: the drop that was accepted.
        float_bytes: size of the same artifact in float32.
        calibrated_on: the images of the calibration.
    """

    drop: float
    max_drop: float
    float_bytes: int
    calibrated_on: str


def write_int8(
    student: Student,
    description: Description,
    path: Path,
    settings: Int8Settings,
    pictures: Pictures,
    scratch: Path,
) -> None:
    """Write a quantized student as ONNX.

    Args:
        student: the student.
        description: what is stored with it.
        path: file of the artifact.
        settings: how it is quantized.
        pictures: images for the calibration.
        scratch: folder for temporary files.

    Raises:
        DataError: an image cannot be read.
    """
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    files = [scratch / f"{name}.onnx" for name in ("float", "prepared", "int8")]
    save_model(to_onnx(graph_of(student, raw=True)), files[0], {})
    with _quiet():
        quant_pre_process(files[0], files[1])
        _name_nodes(files[1])
        quantize_static(
            files[1],
            files[2],
            _Images(pictures, description),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            reduce_range=settings.reduce_range,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=getattr(CalibrationMethod, _METHODS[settings.calibration]),
            nodes_to_exclude=_ends(files[1]) if settings.float_ends else [],
        )
    save_model(_complete(student, description, files[2]), path, description.to_texts())


_METHODS = {"minmax": "MinMax", "percentile": "Percentile", "entropy": "Entropy"}


def accepted_drop(comparison: ArtifactComparison, max_drop: float) -> float:
    """The loss of accuracy in percentage points, if it is small enough.

    Raises:
        ModelError: it is larger than ``max_drop``.
    """
    assert comparison.student is not None
    assert comparison.artifact is not None
    before, after = comparison.student.top1, comparison.artifact.top1
    drop = POINTS * (before - after)
    # A small excess of float numbers is no excess.
    if not drop <= max_drop + 1e-9:
        raise ModelError(
            f"Accuracy must not fall by more than {max_drop:g} points in int8 (--max-drop)",
            got=f"{drop:.2f} points, from {before:.2%} to {after:.2%} on {comparison.source}; "
            "nothing was written",
            fix="use --calibration percentile or --float-ends, or omit --int8.",
        )
    return drop


class _Images:
    """Images for the calibration, as onnxruntime reads them: one batch after the other."""

    def __init__(self, pictures: Pictures, description: Description) -> None:
        self._batches = (
            {PIXELS: np.stack([normalized(image, description) for image in part])}
            for part in pictures.parts(BATCH)
        )

    def get_next(self) -> dict[str, NDArray[np.float32]] | None:
        return next(self._batches, None)


def _name_nodes(path: Path) -> None:
    """Give each node of a model a name of its own.

    Nodes are excluded from quantization by their names, and the optimizer of onnxruntime makes some without,
    such as the two parts of a hard swish.
    """
    import onnx

    model = onnx.load(path)
    for number, node in enumerate(model.graph.node):
        node.name = node.name or f"{node.op_type}_{number}"
    onnx.save(model, path)


def _ends(path: Path) -> list[str]:
    """Names of the first and the last layer with weights."""
    import onnx

    layers = [node.name for node in onnx.load(path).graph.node if node.op_type in QUANTIZED]
    return [layers[0], layers[-1]]


def _complete(student: Student, description: Description, path: Path) -> Any:
    """The quantized network, with preprocessing, temperature and softmax unless it is raw."""
    import onnx
    from onnx import compose, helper, numpy_helper

    network = onnx.load(path)
    if description.raw:
        return network
    _rename(network.graph, "network/", keep=(PIXELS, LOGITS))
    before = to_onnx(preprocessing_graph(student))
    # Newer versions of the format have nothing that the older one lacks here.
    before.ir_version = network.ir_version = max(before.ir_version, network.ir_version)
    model = compose.merge_models(before, network, io_map=[(PIXELS, PIXELS)])
    graph = model.graph
    temperature = numpy_helper.from_array(np.float32(description.temperature).reshape(()), "temperature")
    graph.initializer.append(temperature)
    graph.node.append(helper.make_node("Div", [LOGITS, "temperature"], ["scaled"], "divide_by_temperature"))
    graph.node.append(helper.make_node("Softmax", ["scaled"], [PROBABILITIES], "softmax", axis=1))
    logits = graph.output[0]
    probabilities = onnx.ValueInfoProto()
    probabilities.CopyFrom(logits)
    probabilities.name = PROBABILITIES
    del graph.output[:]
    graph.output.extend([probabilities, logits])
    return model


def _rename(graph: Any, prefix: str, keep: Sequence[str]) -> None:
    """Give the nodes and values of a graph without branches a prefix, so that it can be merged.

    ``onnx.compose.add_prefix`` would miss the values in branches of the other graph.
    """
    for number, node in enumerate(graph.node):
        # Nodes without a name are allowed, but no two nodes may have the same one.
        node.name = f"{prefix}{node.name or number}"
        for names in (node.input, node.output):
            # An empty name is an input that is not given.
            names[:] = [name if name in keep or not name else prefix + name for name in names]
    for value in (*graph.initializer, *graph.value_info):
        value.name = prefix + value.name


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Context in which the libraries print and log nothing but errors."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        logging.disable(before)
