"""The card in a student's folder: it reads as YAML and Markdown, and its numbers are the run's."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from richkd.training.run import distill
from tests.fixtures import CLASSES, SIZE, World


def test_a_card_tells_what_the_summary_tells(world: World, tmp_path: Path) -> None:
    summary = distill(world.config(tmp_path / "run", train__epochs=1), quiet=True).summary
    card = (tmp_path / "run" / "student" / "README.md").read_text(encoding="utf-8")
    _, head, body = card.split("---\n", 2)
    metadata = yaml.safe_load(head)
    assert metadata["library_name"] == "timm"
    (model,) = metadata["model-index"]
    assert model["name"] == "cifar_resnet8"
    result = {result["dataset"]["name"]: result["metrics"][0]["value"] for result in model["results"]}
    assert result == {
        f"images, {split}": round(figures["top1"], 4) for split, figures in summary["splits"].items()
    }
    for name, figures in summary["teachers"]["test"].items():
        if isinstance(figures, dict):
            shown = {"target": "fused teacher"}.get(name, "/".join(Path(name).parts[-2:]))
            assert f"| {shown}, test | {figures['top1']:.1%} | {figures['nll']:.3f} |" in body
    assert f"{SIZE} × {SIZE}" in body
    assert ", ".join(CLASSES) in body
    assert "labels alone" not in body
    assert str(tmp_path.parent.parent) not in body
    # Rows of a table follow each other, or it is none.
    rows = [line.startswith("|") for line in body.splitlines()]
    first, last = rows.index(True), len(rows) - rows[::-1].index(True)
    assert all(rows[first:last])
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["parameters"] == summary["parameters"]
    assert f"{summary['parameters']:,}-parameter" in body


def test_a_student_of_labels_alone_says_so(world: World, tmp_path: Path) -> None:
    distill(world.config(tmp_path / "run", train__epochs=1, method__name="ce"), quiet=True)
    assert "trained from labels alone" in (tmp_path / "run" / "student" / "README.md").read_text()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"method__name": "ce"}, "import richkd.models"),
        ({"method__name": "simkd"}, "import richkd.models"),
        ({"method__name": "ce", "student__name": "test_vit", "student__size": 64}, "import timm"),
        ({"method__name": "ce", "student__name": "tests.fixtures:PlainNet"}, "import richkd\n"),
    ],
)
def test_its_code_loads_the_student_in_a_new_process(
    world: World, tmp_path: Path, changes: dict[str, Any], code: str
) -> None:
    run = distill(world.config(tmp_path / "run", train__epochs=1, **changes), quiet=True)
    text = (run.folder / "student" / "README.md").read_text()
    lines = text.partition("```python\n")[2].partition("```")[0]
    assert lines.startswith(code)
    lines = lines.replace("PATH_OF_THIS_FOLDER", str(run.folder / "student"))
    subprocess.run([sys.executable, "-c", lines], check=True, cwd=Path(__file__).parents[2])


def test_a_run_without_held_out_images_has_a_card_without_calibrated_figures(
    world: World, tmp_path: Path
) -> None:
    changes = {"method__name": "ce", "data__val_fraction": 0, "train__epochs": 1}
    summary = distill(world.config(tmp_path / "run", **changes), quiet=True).summary
    body = (tmp_path / "run" / "student" / "README.md").read_text(encoding="utf-8")
    figures = summary["splits"]["test"]
    shown = f"{figures['top1']:.1%} | {figures['nll']:.3f} | {figures['ece']:.3f}"
    assert f"| **this model**, test | {shown} |  |  | {figures['n']} |" in body
