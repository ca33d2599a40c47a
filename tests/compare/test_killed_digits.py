"""A comparison on the demo's digits that is killed ten times has the table of one that was left alone."""

from __future__ import annotations

import json
import random
import time
from pathlib import Path
from typing import Any

import pytest

from richkd.config.loading import load_config
from richkd.demo.digits import write_digits
from richkd.demo.run import LABELS, NEGATIVES, SETTINGS, SIZE, STUDENT, TEACHER, TINY_CLIP
from richkd.training.run import distill
from tests.compare.plans import in_child, leftovers, run, write

pytestmark = pytest.mark.slow

KILLS = 10


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Two methods of the demo with their controls, two seeds, and the demo's teacher after an epoch."""
    folder = tmp_path_factory.mktemp("digits")
    write_digits(folder / "data", size=SIZE, train_per_class=LABELS, val_per_class=10, seed=0)
    common = SETTINGS | {"data.path": str(folder / "data"), "train.workers": 0}
    taught = {"student.name": TEACHER, "method.name": "ce", "train.epochs": 1, "out": str(folder / "teacher")}
    distill(load_config(overrides=common | taught), quiet=True)
    teachers = [{"name": f"local-dir:{folder / 'teacher' / 'student'}"}]
    models = {
        "student.name": STUDENT,
        "teachers": teachers,
        "clip.name": f"local-dir:{TINY_CLIP}",
        "clip.cache": str(folder / "names"),
        "train.teacher_precision": "fp32",
    }
    return {
        "base": common | models,
        "methods": {"kd": None, "richkd": {"method.variant": "lf", **NEGATIVES}},
        "controls": ["teacher-only", "shuffled"],
        "seeds": [0, 1],
        "budgets": [3],
        "cache": str(folder / "cache"),
    }


def test_ten_kills_change_no_figure(plan: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "alone").mkdir()
    run(write(tmp_path / "alone", plan), tmp_path / "alone" / "out")
    path, draws = write(tmp_path, plan), random.Random(7)
    finished: set[str] = set()
    for _ in range(KILLS):
        child = in_child(path, tmp_path / "out")
        time.sleep(draws.uniform(0.5, 3.0))
        child.kill()
        child.join()
        finished |= {file.parent.name for file in (tmp_path / "out").glob("runs/*/summary.json")}
    done = {name: (tmp_path / "out" / "runs" / name / "summary.json").stat().st_mtime_ns for name in finished}
    run(path, tmp_path / "out")
    for name, before in done.items():
        assert (tmp_path / "out" / "runs" / name / "summary.json").stat().st_mtime_ns == before
    table, expected = (folder / "out" / "compare.json" for folder in (tmp_path, tmp_path / "alone"))
    assert table.read_bytes() == expected.read_bytes()
    (cell,) = json.loads(table.read_text())["cells"]
    assert [method["name"] for method in cell["methods"]] == [
        "kd",
        "richkd",
        "richkd teacher-only",
        "richkd shuffled",
    ]
    assert not leftovers(tmp_path)
