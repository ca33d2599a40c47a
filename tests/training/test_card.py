"""The card in a student's folder: it reads as YAML and Markdown, and its numbers are the run's."""

from __future__ import annotations

import json
from pathlib import Path

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


def test_a_run_without_held_out_images_has_a_card_without_calibrated_figures(
    world: World, tmp_path: Path
) -> None:
    changes = {"method__name": "ce", "data__val_fraction": 0, "train__epochs": 1}
    summary = distill(world.config(tmp_path / "run", **changes), quiet=True).summary
    body = (tmp_path / "run" / "student" / "README.md").read_text(encoding="utf-8")
    figures = summary["splits"]["test"]
    shown = f"{figures['top1']:.1%} | {figures['nll']:.3f} | {figures['ece']:.3f}"
    assert f"| **this model**, test | {shown} |  |  | {figures['n']} |" in body
