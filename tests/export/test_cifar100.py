"""A student for CIFAR-100 and its ONNX file give the same class for all 10,000 test images."""

from __future__ import annotations

from pathlib import Path

import pytest

from richkd.config.schema import DataConfig, ModelConfig
from richkd.data.sources import open_data
from richkd.export.run import ExportSettings, export_student
from richkd.export.student import save_student
from richkd.models.build import build_network

pytest.importorskip("onnx")


@pytest.mark.slow
def test_every_class_is_the_same(data_dir: Path, tmp_path: Path) -> None:
    folder, weights = data_dir / "cifar100", data_dir / "cifar100-teachers" / "cifar100_resnet20.pth"
    if not folder.is_dir() or not weights.is_file():
        pytest.skip(f"not found: {folder}, {weights}")
    names = open_data(DataConfig(path=str(folder), label_column="fine_label")).class_names
    network = build_network(ModelConfig(name="cifar_resnet20", weights=weights), len(names), role="student")
    save_student(tmp_path / "student", network, names, 1.46, {})
    settings = ExportSettings("onnx", tmp_path / "a.onnx", data=str(folder), most=10_000)
    comparison = export_student(str(tmp_path / "student"), settings).comparison
    assert (comparison.images, comparison.agreement) == (10_000, 1.0)
    assert comparison.student is not None
    assert comparison.artifact is not None
    # The published accuracy, with preprocessing inside the graph.
    assert (round(comparison.student.top1, 4), round(comparison.artifact.top1, 4)) == (0.6883, 0.6883)
