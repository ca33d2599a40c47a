"""The cost of teachers of folds: counted images, and minutes from measured seconds."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from richkd.config.teacher_run import recipe_of
from richkd.data.sources import open_data
from richkd.training.fold_cost import FoldCost, cost_of, seconds_per_image
from richkd.training.run import teach_folds
from tests.fixtures import World

# 36 training images in batches of 8.
FULL = 2 * 32


def test_images_are_those_of_full_batches(full_run: Path, tmp_path: Path) -> None:
    recipe = recipe_of(full_run)
    config = recipe_of(full_run, {"out": str(tmp_path), "train.epochs": 3})
    data = open_data(config.data, config.train.seed)
    cost = cost_of(config, 5, data, (full_run, recipe), resume=False)
    # 36 = 8 + 7 + 7 + 7 + 7; 28 and 29 images are three batches of 8.
    assert cost.left_out == (8, 7, 7, 7, 7)
    assert cost.images == (24,) * 5
    assert (cost.full, cost.done, cost.finished) == (FULL, (0,) * 5, 0)
    timing = [json.loads(line) for line in (full_run / "timing.jsonl").read_text().splitlines()]
    seconds = sum(line["seconds"] for line in timing)
    assert cost.seconds == pytest.approx(seconds / FULL, rel=0.01)
    assert cost.source == f"in {full_run}"


def test_the_minutes_are_those_of_the_rest() -> None:
    cost = FoldCost((100, 100), (300, 300), 10, (10, 5), 1, 4000, 0.5, "in runs/teacher")
    lines = cost.lines()
    assert "2 trainings, each without 100 images: 300 images × 10 epochs, 0.75 of the full" in lines[0]
    assert "together 1.5 × the full training; 1 of 2 is finished" in lines[1]
    # 5 × 300 × 0.5 s = 12.5 minutes of 50.
    assert "about 12 of 50 minutes remain (5e+02 ms per image in runs/teacher)" in lines[2]
    assert "unknown" in FoldCost((1, 2), (3, 3), 1, (0, 0), 0, 9, None, "").lines()[2]


@pytest.mark.parametrize("timing", [[], [{}], [{"seconds": "a", "images_per_second": 1}], [{"seconds": 0}]])
def test_timing_without_seconds_says_nothing(timing: list[dict[str, object]]) -> None:
    assert seconds_per_image(timing) is None


def test_another_network_or_no_full_teacher_is_measured(full_run: Path, world: World, tmp_path: Path) -> None:
    recipe = recipe_of(full_run)
    smaller = recipe_of(full_run, {"student.size": 8, "out": str(tmp_path)})
    data = open_data(smaller.data, smaller.train.seed)
    for full in ((full_run, recipe), None):
        cost = cost_of(smaller, 2, data, full, resume=False)
        assert "without reading images" in cost.source
        assert cost.seconds is not None
        assert 0 < cost.seconds < 1


def test_the_cost_is_printed_first_and_counts_what_is_finished(
    full_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = recipe_of(full_run, {"out": str(tmp_path / "folds"), "train.epochs": 1})
    teach_folds(config, 3, full=full_run)
    lines = capsys.readouterr().out.splitlines()
    assert [line.startswith("folds: ") for line in lines[:4]] == [True, True, True, False]
    assert "3 trainings, each without 12 images: 24 images × 1 epoch, 0.38 of" in lines[0]
    assert "0 of 3 are finished" in lines[1]
    whole = re.search(r"about (.*) of (.*) minutes", lines[2])
    assert whole is not None
    assert whole[1] == whole[2]
    (tmp_path / "folds" / "fold-2" / "summary.json").unlink()
    teach_folds(config, 3, full=full_run, resume=True)
    out = capsys.readouterr().out
    assert "2 of 3 are finished" in out
    # The two others are passed over.
    assert out.count("student: ") == 1
    teach_folds(config, 3, full=full_run, resume=True)
    assert "3 of 3 are finished\nfolds: about 0.0 of" in capsys.readouterr().out


def test_epochs_of_folds_that_began_give_the_seconds(world: World, tmp_path: Path) -> None:
    config = world.config(tmp_path / "folds", method__name="ce", train__epochs=1)
    teach_folds(config, 2, quiet=True)
    longer = world.config(tmp_path / "folds", method__name="ce", train__epochs=4)
    cost = cost_of(longer, 2, open_data(longer.data, 0), None, resume=True)
    assert (cost.done, cost.finished, cost.source) == ((1, 1), 0, "in folds that began")
