"""The example classifies like the student, without this package and without PyTorch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from richkd.export.run import ExportSettings, export_student
from richkd.export.student import load_student
from tests.docs.blocks import ROOT
from tests.export.students import CLASSES, make_photos, make_student

EXAMPLE = ROOT / "examples" / "classify_onnx.py"
# Runs the example, then fails if one of these was imported.
GUARD = """
import runpy, sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("richkd", "torch", "torchvision", "timm"):
            raise ImportError(f"{name} is not needed")
sys.meta_path.insert(0, Refuse())
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
assert not {"richkd", "torch"} & set(sys.modules)
"""


@pytest.mark.slow
def test_the_example_gives_the_probabilities_of_the_student(tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    folder, photos = make_student(tmp_path / "small" / "student"), make_photos(tmp_path / "photos")
    rotated = Image.open(photos / "2.png")
    exif = rotated.getexif()
    exif[0x0112] = 6
    rotated.save(photos / "rotated.png", exif=exif)
    rotated.convert("RGBA").save(photos / "transparent.webp", lossless=True)
    export_student(str(folder), ExportSettings("onnx", tmp_path / "small.onnx", images=str(photos)))
    files = sorted(photos.iterdir())
    command = [sys.executable, "-c", GUARD, str(EXAMPLE), str(tmp_path / "small.onnx"), *map(str, files)]
    result = subprocess.run(
        [*command, "--top", "3"], capture_output=True, text=True, timeout=240, cwd=tmp_path, encoding="utf-8"
    )
    assert result.returncode == 0, result.stderr
    expected = []
    for file, row in zip(files, load_student(folder).probabilities(files), strict=True):
        best = row.argsort(descending=True)
        expected += [str(file), *(f"  {float(row[i]):6.1%}  {CLASSES[i]}" for i in best.tolist())]
    assert result.stdout.splitlines() == expected


def test_the_example_is_short() -> None:
    assert len(EXAMPLE.read_text(encoding="utf-8").splitlines()) <= 40
