"""Caches filled ahead, listed, verified and removed through the command line."""

from __future__ import annotations

import json
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from richkd.cli import main
from richkd.core.errors import CacheError, ConfigError, RichKDError
from richkd.pipeline.fill_cache import damaged_shards, fill_caches, open_caches, verify_caches
from richkd.teachers.cache.manifest import list_caches
from richkd.teachers.cache.store import OutputCache
from richkd.training.run import distill
from tests.fixtures import World, command, one_thread, refusal

KD: dict[str, Any] = {"method__name": "kd", "clip__name": None}


def cached(world: World, tmp_path: Path, **changes: Any) -> dict[str, Any]:
    return KD | {"cache__dir": tmp_path / "cache"} | changes


def ask(*words: object) -> int:
    """The status that a command ends with."""
    with pytest.raises(SystemExit) as ended:
        main([str(word) for word in words])
    return int(ended.value.code or 0)


def test_a_run_after_filling_computes_nothing_and_is_the_online_run(world: World, tmp_path: Path) -> None:
    settings = cached(world, tmp_path)
    fill_caches(world.config(tmp_path / "run", **settings), quiet=True)
    run = distill(world.config(tmp_path / "run", **settings), quiet=True)
    online = distill(world.config(tmp_path / "online", **KD), quiet=True)
    assert list(run.summary["images_through_teachers"].values()) == [0]
    weights = "student/model.safetensors"
    assert (run.folder / weights).read_bytes() == (online.folder / weights).read_bytes()


def test_filling_twice_computes_once(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = world.config(tmp_path / "run", **cached(world, tmp_path))
    fill_caches(config)
    before = sorted((tmp_path / "cache").rglob("*"))
    assert "images/s" in capsys.readouterr().out
    fill_caches(config)
    assert sorted((tmp_path / "cache").rglob("*")) == before
    printed = capsys.readouterr().out
    # Nothing was computed, so there is no speed.
    assert "epoch 3/3  all outputs are stored" in printed
    assert "test: all outputs are stored" in printed
    assert "images/s" not in printed


@pytest.mark.slow
def test_two_processes_share_a_filling(world: World, tmp_path: Path) -> None:
    words = ["cache", "fill", *world.options(tmp_path / "run", **cached(world, tmp_path))]
    processes = []
    for rank in (0, 1):
        environment = one_thread() | {"RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": str(rank)}
        environment |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29531", "ACCELERATE_USE_CPU": "true"}
        processes.append(
            subprocess.Popen(command(*words), env=environment, stdout=subprocess.PIPE, text=True)
        )
    outputs = [process.communicate()[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0]
    assert "images in this process" in outputs[0]
    run = distill(world.config(tmp_path / "run", **cached(world, tmp_path)), quiet=True)
    assert list(run.summary["images_through_teachers"].values()) == [0]


@pytest.mark.slow
def test_a_filling_that_is_stopped_keeps_what_it_computed(world: World, tmp_path: Path) -> None:
    changes = cached(world, tmp_path, train__epochs=500)
    words = command("cache", "fill", *world.options(tmp_path / "run", **changes))
    process = subprocess.Popen(words, env=one_thread(), stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    while "epoch 3/" not in process.stdout.readline():
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    rest, _ = process.communicate()
    assert process.returncode == 130
    assert "Continue with the same command" in rest
    train = next(folder for folder in list_caches(tmp_path / "cache") if "-train-" in folder.name)
    assert list(train.glob("*.safetensors"))


def test_verifying_agrees_and_names_what_is_damaged(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = world.config(tmp_path / "run", **cached(world, tmp_path))
    fill_caches(config, quiet=True)
    results = verify_caches(config, sample=20, quiet=True)
    assert {result.images for result in results} == {12, 20}
    # Other batches round differently, by no more than float16 does.
    assert all(result.largest < 1e-2 for result in results)
    assert all(result.agreement == 1 for result in results)
    assert ask("cache", "verify", tmp_path / "cache") == 0
    assert capsys.readouterr().out.count("every shard is intact") == 3
    shard = sorted((tmp_path / "cache").rglob("*.safetensors"))[0]
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 4
    shard.write_bytes(content)
    assert ask("cache", "verify", tmp_path / "cache") == 1
    assert shard.name in capsys.readouterr().out
    assert ask("cache", "ls", tmp_path / "cache") == 0
    assert shard.exists()


def test_rows_of_other_images_are_noticed(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = world.config(tmp_path / "run", **cached(world, tmp_path))
    fill_caches(config, quiet=True)
    find = OutputCache.find
    monkeypatch.setattr(OutputCache, "find", lambda self, index, number: find(self, index, number).roll(1))
    assert max(result.largest for result in verify_caches(config, sample=20, quiet=True)) > 0.05


def test_caches_are_listed_and_removed(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fill_caches(world.config(tmp_path / "run", **cached(world, tmp_path)), quiet=True)
    root = tmp_path / "cache"
    assert ask("cache", "ls", root) == 0
    shown = capsys.readouterr().out
    assert [manifest.folder for manifest, _ in open_caches(str(root))] == [f.name for f in list_caches(root)]
    for folder in list_caches(root):
        assert folder.name in shown
        assert damaged_shards(str(folder)) == []
        assert ask("cache", "rm", root, folder.name) == 0
    assert list_caches(root) == []
    assert ask("cache", "ls", root) == 1
    assert "no caches" in capsys.readouterr().err


def test_manifests_name_their_ingredients(world: World, tmp_path: Path) -> None:
    fill_caches(world.config(tmp_path / "run", **cached(world, tmp_path)), quiet=True)
    train = next(folder for folder in list_caches(tmp_path / "cache") if "-train-" in folder.name)
    ingredients = json.loads((train / "manifest.json").read_text())["ingredients"]
    expected = "teacher, teacher's weights, input, precision, compiled, device, class names, images, views"
    assert sorted(ingredients) == sorted(expected.split(", "))


@pytest.mark.parametrize(
    ("changes", "kind", "rule"),
    [
        ({"cache__dir": None}, CacheError, "cache.dir must be set"),
        (
            {"method__name": "ce"},
            ConfigError,
            "'cache.dir' has no effect in this run: no loss term reads a teacher",
        ),
        ({"objective__kd__target": "clip", "teachers__1__name": None}, CacheError, "can be stored"),
    ],
)
def test_what_cannot_be_filled_is_refused(
    world: World, tmp_path: Path, changes: dict[str, Any], kind: type[RichKDError], rule: str
) -> None:
    settings = cached(world, tmp_path) | changes
    if "objective__kd__target" in changes:
        settings["clip__name"] = f"outputs:{world.clip}"
    error = refusal(fill_caches, world.config(tmp_path / "run", **settings), quiet=True)
    assert isinstance(error, kind)
    assert rule in error.rule
