"""Teachers whose weights are divided among processes have the outputs of whole ones; no process hangs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import richkd
from tests.distributed.sharded_worker import BATCHES, NAMES
from tests.distributed.starts import Run, finished, lines, result, start, torchrun, work
from tests.fixtures import CLASSES, World

pytestmark = pytest.mark.slow

SHORT: dict[str, Any] = {"train__batch_size": 7, "train__epochs": 1, "train__trackers": ()}
DIVIDED = SHORT | {"train__shard_teachers": True}


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What two processes found."""
    out = tmp_path_factory.mktemp("sharded")
    status, output = finished(start(torchrun(2, "-m", "tests.distributed.sharded_worker", str(out)), out))
    assert status == 0, output
    return [json.loads((out / f"{rank}.json").read_text()) for rank in (0, 1)]


@pytest.mark.parametrize("how", ["train", "val", "inference"])
def test_outputs_are_bit_identical_to_those_of_a_whole_teacher(
    results: list[dict[str, Any]], how: str
) -> None:
    assert [one[how] for one in results] == [[True] * len(batches) for batches in BATCHES]


def test_a_process_holds_half_of_the_weights(results: list[dict[str, Any]]) -> None:
    for one in results:
        assert one["held"] == pytest.approx([0.5] * len(NAMES), abs=0.02)


def test_blank_images_are_not_counted(results: list[dict[str, Any]]) -> None:
    for one, batches in zip(results, BATCHES, strict=True):
        counts = [sum(count for place, count in batches if place == at) for at in range(len(NAMES))]
        assert one["computed"] == [3 * count for count in counts]


def test_a_cache_of_whole_teachers_is_read(results: list[dict[str, Any]]) -> None:
    assert all(all(one["ingredients"]) for one in results)


def test_an_error_of_one_process_ends_both(results: list[dict[str, Any]]) -> None:
    assert results[0]["error"] == results[1]["error"]
    assert "An error" in results[0]["error"]


RUNS: list[Run] = [
    ("whole", SHORT, {}, "whole"),
    ("divided", DIVIDED, {}, "divided"),
    # An empty cache, then a full one.
    ("filling", DIVIDED | {"cache__dir": "cache"}, {}, "filling"),
    ("reading", DIVIDED | {"cache__dir": "cache"}, {}, "reading"),
    ("maps", DIVIDED | {"method__name": "fitnet"}, {}, "maps"),
    ("compiled", DIVIDED | {"train__compile_teacher": True}, {}, "compiled"),
]


@pytest.fixture(scope="module")
def runs(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of two processes."""
    folder = tmp_path_factory.mktemp("runs")
    tiny_clip = f"local-dir:{Path(richkd.__file__).parent / 'demo' / 'tiny_clip'}"
    names = folder / "names.json"
    names.write_text(json.dumps(dict(zip(CLASSES, ("one", "two", "three"), strict=True))))
    clip = {"clip__name": tiny_clip, "clip__cache": str(folder / "clip"), "clip__rename_classes": str(names)}
    changed = [
        (name, ({} if name == "maps" else clip) | changes, how, out) for name, changes, how, out in RUNS
    ]
    for _, changes, _, _ in changed:
        if "cache__dir" in changes:
            changes["cache__dir"] = str(folder / changes["cache__dir"])
    status, output = work(world, folder, 2, changed)
    assert status == 0, output
    return folder


@pytest.mark.parametrize("name", ["divided", "filling", "reading"])
def test_a_run_has_the_bytes_of_one_with_whole_teachers(name: str, runs: Path) -> None:
    assert lines(runs / name) == lines(runs / "whole")
    for file in ("student/model.safetensors", "checkpoints/last.ckpt"):
        assert (runs / name / file).read_bytes() == (runs / "whole" / file).read_bytes(), file


def test_terms_that_read_maps_are_refused(runs: Path) -> None:
    for rank in (0, 1):
        kind, message = result(runs, "maps", rank)["error"]
        assert kind == "ConfigError"
        assert "train.shard_teachers" in message


def test_compiling_is_refused(runs: Path) -> None:
    assert "cannot be compiled" in result(runs, "compiled")["error"][1]
