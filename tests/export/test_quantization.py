"""Quantized artifacts keep the accuracy of their student, or are refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import richkd.export.quantization
from richkd.core.errors import ConfigError, DataError, ModelError
from richkd.export.artifact import load_artifact
from richkd.export.comparison import ArtifactComparison
from richkd.export.quantization import Int8Settings, accepted_drop, read_int8_settings
from richkd.export.run import ExportSettings, export_student
from richkd.export.student import load_student
from richkd.metrics.accuracy import Metrics
from tests.export.students import make_photos, make_student
from tests.fixtures import refusal

onnx = pytest.importorskip("onnx")


def metrics(top1: float) -> Metrics:
    return Metrics(top1, 1.0, 0.5, 0.1, 0.2, 200)


@pytest.mark.slow
def test_an_int8_artifact_is_smaller_and_as_accurate(full_run: Path, tmp_path: Path) -> None:
    """Per channel, with preprocessing in float32; the whole graph is run on pictures of several sizes."""
    out = tmp_path / "small.int8.onnx"
    lines: list[str] = []
    result = export_student(str(full_run), ExportSettings("onnx", out, int8=Int8Settings()), lines.append)
    assert any("calibrating on 36 of 36 images of train" in line for line in lines)
    assert result.int8 is not None
    assert result.bytes == out.stat().st_size < result.int8.float_bytes
    assert result.comparison.images == 12
    assert result.comparison.agreement >= 0.9
    assert abs(result.int8.drop) <= 1.0
    artifact, student = load_artifact(out), load_student(full_run)
    assert artifact.description.precision == "int8"
    photos = sorted(make_photos(tmp_path / "photos").iterdir())
    difference = artifact.probabilities(photos) - student.probabilities(photos)
    # Not the float network, and not another one.
    assert 1e-6 < float(difference.abs().max()) < 0.1
    probabilities, logits = artifact.outputs(photos)
    assert torch.allclose((logits / student.temperature).softmax(1), probabilities, atol=1e-5)
    graph = onnx.load(out).graph
    weights = {one.name: one for one in graph.initializer}
    scales = [weights[node.input[1]] for node in graph.node if node.op_type == "DequantizeLinear"]
    convolutions = sum(node.op_type == "Conv" for node in graph.node)
    assert sum(len(scale.dims) == 1 and scale.dims[0] > 1 for scale in scales) >= convolutions > 5


def test_each_node_gets_a_name_of_its_own(tmp_path: Path) -> None:
    helper, numbers = onnx.helper, onnx.TensorProto.FLOAT
    # As the optimizer leaves a hard swish.
    nodes = [
        helper.make_node("HardSigmoid", ["x"], ["a"]),
        helper.make_node("Mul", ["x", "a"], ["b"]),
        helper.make_node("HardSigmoid", ["b"], ["c"], name="named"),
        helper.make_node("Mul", ["b", "c"], ["y"]),
    ]
    ends = [[helper.make_tensor_value_info(name, numbers, [1])] for name in ("x", "y")]
    path = tmp_path / "a.onnx"
    onnx.save(helper.make_model(helper.make_graph(nodes, "graph", *ends)), path)
    richkd.export.quantization._name_nodes(path)
    graph = onnx.load(path).graph
    names = [node.name for node in graph.node]
    assert names[2] == "named"
    assert len(set(names)) == 4
    assert all(names)
    # Names that are missing when the network joins its preprocessing.
    for node in graph.node:
        node.name = ""
    richkd.export.quantization._rename(graph, "network/", keep=("x", "y"))
    assert len({node.name for node in graph.node}) == 4


@pytest.mark.slow
def test_nodes_that_the_optimizer_leaves_without_a_name(tmp_path: Path) -> None:
    """It divides a hard swish, as MobileNetV3 and LCNet have it, into two nodes without names."""
    classes = ("ant", "bee", "cat")
    student = make_student(tmp_path / "student", "lcnet_035", size=32, classes=classes)
    for name in classes:
        make_photos(tmp_path / "photos" / name)
    int8 = Int8Settings(max_drop=100, images=4)
    settings = ExportSettings("onnx", tmp_path / "a.onnx", data=str(tmp_path / "photos"), int8=int8, most=6)
    assert export_student(str(student), settings).comparison.agreement >= 0.5
    nodes = onnx.load(tmp_path / "a.onnx").graph.node
    assert sum(node.op_type == "HardSigmoid" for node in nodes) > 1
    assert len({node.name for node in nodes}) == len(nodes)


@pytest.mark.slow
def test_the_ends_can_stay_in_float32_and_the_raw_network_is_quantized_too(
    full_run: Path, tmp_path: Path
) -> None:
    int8 = Int8Settings(calibration="percentile", reduce_range=True, float_ends=True, images=20)
    settings = ExportSettings("onnx", tmp_path / "a.onnx", raw=True, int8=int8, most=6)
    result = export_student(str(full_run), settings)
    assert result.comparison.images == 6
    graph = onnx.load(tmp_path / "a.onnx").graph
    values = {one.name for one in graph.initializer if one.data_type == onnx.TensorProto.FLOAT}
    layers = [node for node in graph.node if node.op_type in ("Conv", "Gemm")]
    assert [node.input[1] in values for node in (layers[0], layers[1], layers[-1])] == [True, False, True]
    integers = [onnx.numpy_helper.to_array(one) for one in graph.initializer if one.data_type == 3]
    assert max(int(np.abs(array.astype(int)).max()) for array in integers) <= 64


@pytest.mark.slow
def test_a_loss_of_accuracy_is_refused_and_nothing_is_left(
    full_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With ranges of pixels around 100,000, all images of the usual range are the same integers."""
    monkeypatch.setattr(
        richkd.export.quantization, "normalized", lambda image, about: np.full((3, 16, 16), 1e5, np.float32)
    )
    settings = ExportSettings("onnx", tmp_path / "x" / "a.onnx", int8=Int8Settings(max_drop=0.0))
    error = refusal(export_student, str(full_run), settings)
    assert isinstance(error, ModelError)
    assert "(--max-drop)" in error.rule
    assert list((tmp_path / "x").iterdir()) == []


def test_the_drop_is_in_points() -> None:
    worse = ArtifactComparison(200, "200 images", 0.9, 0.5, 0.1, metrics(0.9), metrics(0.89))
    assert accepted_drop(worse, 1.0) == pytest.approx(1.0)
    error = refusal(accepted_drop, worse, 0.99)
    assert str(error.got).startswith("1.00 points, from 90.00% to 89.00% on 200 images")
    better = ArtifactComparison(200, "200 images", 0.9, 0.5, 0.1, metrics(0.89), metrics(0.9))
    assert accepted_drop(better, 0.0) == pytest.approx(-1.0)


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        (ExportSettings("pt2", int8=Int8Settings()), "--int8 needs --to onnx"),
        (ExportSettings("onnx", images="photos", int8=Int8Settings()), "labeled images"),
        (ExportSettings("onnx", int8=Int8Settings(max_drop=-1)), "--max-drop"),
        (ExportSettings("onnx", int8=Int8Settings(max_drop=float("nan"))), "--max-drop"),
        (ExportSettings("onnx", int8=Int8Settings(images=0)), "--calibration-images"),
    ],
)
def test_wrong_settings_are_refused(full_run: Path, settings: ExportSettings, text: str) -> None:
    error = refusal(export_student, str(full_run), settings)
    assert isinstance(error, ConfigError)
    assert text in str(error)


def test_a_student_without_data_is_refused(tmp_path: Path) -> None:
    folder = make_student(tmp_path / "small" / "student")
    settings = ExportSettings("onnx", tmp_path / "a.onnx", int8=Int8Settings())
    error = refusal(export_student, str(folder), settings)
    assert isinstance(error, DataError)
    assert "--data" in str(error.fix)


def test_options_without_int8_are_refused() -> None:
    assert read_int8_settings(False, {"max_drop": None, "float_ends": False}) is None
    assert read_int8_settings(True, {"max_drop": 0.0}) == Int8Settings(max_drop=0.0)
    for name, option in {"max_drop": "--max-drop", "images": "--calibration-images"}.items():
        assert option in refusal(read_int8_settings, False, {name: 3}).rule
