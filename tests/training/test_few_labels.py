"""Runs with few labels: what they share with runs on all labels, and what may not change in between."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from richkd.config.schema import DataConfig, EvaluateConfig
from richkd.core.errors import CheckpointError
from richkd.core.interrupt import Interrupted
from richkd.core.seeds import mix_seed
from richkd.core.types import UNLABELED
from richkd.data.sources import open_data
from richkd.evaluate.models import open_teachers
from richkd.evaluate.run import evaluate_models
from richkd.pipeline.assemble import assemble
from richkd.pipeline.fill_cache import fill_caches
from richkd.reporting.probe.probe import run_probe
from richkd.training.run import distill, teach_folds
from tests.fixtures import CLASSES, TRAIN, World, keys_of, refusal
from tests.training.test_check import report
from tests.training.test_resume import stop_after
from tests.training.test_run import SAME, run

REST: dict[str, Any] = {"data__labels_per_class": 2, "data__unlabeled": "rest"}
HALF: dict[str, Any] = REST | {"data__unlabeled_fraction": 0.5}
ALL: dict[str, Any] = {"data__labels_per_class": TRAIN}


def make_list(images: Path, wrong: set[str] | None = None) -> Path:
    """A list of the small world, in which the images ``wrong`` have the label of another class."""
    lines = ["image,label,split"]
    for key in keys_of(images):
        split, name, file = key.split("/")
        label = CLASSES[(CLASSES.index(name) + (key in (wrong or ()))) % len(CLASSES)]
        held_out = split == "train" and int(Path(file).stem) < 4
        lines.append(f"{key},{label},{'val' if held_out else split}")
    (images / "list.csv").write_text("\n".join(lines))
    return images / "list.csv"


@pytest.mark.slow
@pytest.mark.parametrize("changes", [REST, HALF])
def test_the_rest_is_learned_from_and_interrupted_like_other_images(
    world: World, tmp_path: Path, changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run(world, tmp_path / "whole", **changes)
    assert run(world, tmp_path / "alone", data__labels_per_class=2)["metrics.jsonl"] != whole["metrics.jsonl"]
    stop_after(monkeypatch, 7)
    config = world.config(tmp_path / "stopped", train__epochs=2, **changes)
    with pytest.raises(Interrupted):
        distill(config, quiet=True)
    monkeypatch.undo()
    distill(config, resume=True, quiet=True)
    assert all((tmp_path / "stopped" / name).read_bytes() == whole[name] for name in SAME)


@pytest.mark.parametrize("changes", [REST, {"data__labels_per_class": 2}])
def test_labels_that_are_not_used_are_not_read(world: World, tmp_path: Path, changes: dict[str, Any]) -> None:
    shutil.copytree(world.images, tmp_path / "images")
    file = make_list(tmp_path / "images")
    changes = changes | {"data__path": str(file)}
    right = run(world, tmp_path / "right", **changes)
    train = open_data(DataConfig(path=str(file), labels_per_class=2, unlabeled="rest")).splits["train"]
    all_labels = open_data(DataConfig(path=str(file))).splits["train"].labels_N.tolist()
    ranks = {key: mix_seed(0, "labels", key) for key in train.keys()}  # noqa: SIM118
    last = max(ranks[train.key(int(place))] for place in (train.labels_N != UNLABELED).nonzero()[:, 0])
    # No class has such an image among its first ones, whatever its label is.
    wrong = {key for key, rank in ranks.items() if rank > last}
    assert len(wrong) > 10
    make_list(tmp_path / "images", wrong)
    assert open_data(DataConfig(path=str(file))).splits["train"].labels_N.tolist() != all_labels
    assert run(world, tmp_path / "wrong", **changes) == right


@pytest.mark.parametrize(
    "changes",
    [
        ALL,
        ALL | {"data__unlabeled": "rest"},
        ALL | {"data__unlabeled": "rest", "data__unlabeled_fraction": 0.5},
    ],
)
def test_all_labels_are_the_run_without_the_setting(
    world: World, tmp_path: Path, changes: dict[str, Any]
) -> None:
    assert run(world, tmp_path / "few", **changes) == run(world, tmp_path / "all")


def test_batches_have_their_share_of_images_without_labels(world: World, tmp_path: Path) -> None:
    parts = assemble(world.config(tmp_path / "run", **HALF), torch.device("cpu"))
    labels_N = parts.data.splits["train"].labels_N
    # The images without labels are among the others.
    assert labels_N.tolist() != sorted(labels_N.tolist(), reverse=True)
    groups = parts.order().epoch(0)
    assert len(groups) == 30 // 4
    assert all((labels_N[group] == UNLABELED).sum() == 4 for group in groups)
    (batch,) = parts.training_batches(0, [groups[0]])
    assert torch.equal(batch.labels_B, labels_N[groups[0]])


def test_stored_outputs_are_those_of_a_run_with_all_labels(world: World, tmp_path: Path) -> None:
    cached = {"cache__dir": tmp_path / "cache", "method__variant": "l"}
    fill_caches(world.config(tmp_path / "run", **cached), quiet=True)
    folders = sorted((tmp_path / "cache").glob("*-*-*/"))
    assert len(folders) == 3
    summary = distill(world.config(tmp_path / "run", **cached, **REST), quiet=True).summary
    assert summary["images_through_teachers"][f"local-dir:{world.teacher}"] == 0
    assert sorted((tmp_path / "cache").glob("*-*-*/")) == folders


@pytest.mark.parametrize(
    ("name", "value"),
    [("labels_per_class", 3), ("labels_per_class", None), ("unlabeled", None), ("unlabeled", "more")],
)
def test_a_run_is_resumed_with_its_labels(
    world: World, tmp_path: Path, name: str, value: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(world.images / "test" / "ant", tmp_path / "more")
    stop_after(monkeypatch, 5)
    with pytest.raises(Interrupted):
        distill(world.config(tmp_path / "run", **REST), quiet=True)
    monkeypatch.undo()
    changed = REST | {f"data__{name}": str(tmp_path / value) if value == "more" else value}
    if name == "labels_per_class" and value is None:
        changed["data__unlabeled"] = None
    error = refusal(distill, world.config(tmp_path / "run", **changed), resume=True, quiet=True)
    assert isinstance(error, CheckpointError)
    assert f"data.{name} {changed[f'data__{name}']} where the run has {REST[f'data__{name}']}" in str(error)


def test_a_student_is_evaluated_with_the_teachers_of_its_run(world: World, tmp_path: Path) -> None:
    changes = REST | {"train__epochs": 1, "fusion__control": "teacher-only", "method__variant": "l"}
    summary = distill(world.config(tmp_path / "run", **changes), quiet=True).summary
    result = evaluate_models([str(tmp_path / "run")], str(world.images), EvaluateConfig(teachers=True))
    first = result.evaluation.model_reports[0]
    assert first.uncalibrated.top1 == summary["splits"]["test"]["top1"]
    assert first.uncalibrated.n == 12
    # What is fitted on training images is fitted on those of the run.
    _, parts = open_teachers(tmp_path / "run", str(world.images), torch.device("cpu"))
    assert len(parts.data.splits["train"]) == 36
    labeled = evaluate_models([str(tmp_path / "run")], str(world.images), EvaluateConfig(split="train"))
    assert labeled.evaluation.model_reports[0].uncalibrated.n == 6
    card = (tmp_path / "run" / "student" / "README.md").read_text()
    assert "36 training images, 30 of them without labels" in card


def test_folds_and_their_student_share_few_labels(world: World, tmp_path: Path) -> None:
    ce = {"method__name": "ce", "train__epochs": 1}
    teach_folds(world.config(tmp_path / "folds", **ce, **REST), 2, quiet=True)
    left_out = set()
    for fold in range(2):
        saved = json.loads((tmp_path / "folds" / f"fold-{fold}" / "student" / "config.json").read_text())
        assert len(saved["richkd"]["left_out"]) == 3
        left_out |= set(saved["richkd"]["left_out"])
    taught = {"teachers__1__name": f"folds:{tmp_path / 'folds'}", "method__variant": "l"}
    parts = assemble(world.config(tmp_path / "run", **taught, **REST), torch.device("cpu"))
    train = parts.data.splits["train"]
    assert left_out == {train.key(i) for i in range(36) if train.labels_N[i] != UNLABELED}
    run(world, tmp_path / "run", **taught, **REST)
    error = refusal(distill, world.config(tmp_path / "other", **taught, data__labels_per_class=3), quiet=True)
    assert "3 of 9 images without such a teacher" in str(error)
    assert "data.labels_per_class" in str(error)


def test_check_and_probe_say_how_many_labels_there_are(world: World, tmp_path: Path) -> None:
    text = report(world.config(tmp_path / "run", **REST))
    assert "labels: those of 6 training images, at most 2 of a class" in text
    assert "unlabeled: 30 of the training images, whose labels are not used" in text
    assert "% on 6 training images" in text
    assert "decoded every image of train: 36" in text
    probe = run_probe(assemble(world.config(tmp_path / "run", **REST), torch.device("cpu")))
    assert (probe.labeled, probe.unlabeled) == (6, 30)
    alone = report(world.config(tmp_path / "run", data__labels_per_class=2))
    assert "decoded every image of train: 6" in alone
    assert "unlabeled:" not in alone


def test_training_images_that_are_also_tested_are_warned_of_as_without_the_setting(
    world: World, tmp_path: Path
) -> None:
    images = tmp_path / "images"
    shutil.copytree(world.images, images)
    for file in (images / "train" / "bee").iterdir():
        shutil.copy(images / "test" / "bee" / "0.png", file)
    config = world.config(tmp_path / "run", data__path=str(images), **REST)
    assert "1 images are in both train and test" in report(config)
