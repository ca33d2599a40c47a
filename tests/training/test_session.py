"""Resuming a run elsewhere, in another environment, or with other images."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image

from richkd.config.loading import load_config
from richkd.config.resumed import resumed_config
from richkd.core.checksums import SUMS, hash_file, record_hashes
from richkd.core.errors import CheckpointError, ConfigError
from richkd.core.interrupt import Interrupted
from richkd.training import environment, inputs
from richkd.training.run import distill
from tests.fixtures import STEPS, World, refusal
from tests.training.test_resume import assert_same, stop_after

CHANGES: dict[str, Any] = {"train__ema_decay": 0.9, "train__epochs": 2}


@pytest.fixture(scope="module")
def whole(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was never stopped."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    distill(world.config(folder, **CHANGES), quiet=True)
    return folder


def copied(world: World, root: Path) -> World:
    """The same world in another folder, whose files have other times."""
    shutil.copytree(world.images, root / "images", copy_function=shutil.copyfile)
    shutil.copytree(world.teacher, root / "teacher", copy_function=shutil.copyfile)
    shutil.copyfile(world.clip, root / "clip.npz")
    return World(root / "images", root / "clip.npz", root / "teacher")


def stopped(world: World, out: Path, steps: int = STEPS + 1, **changes: Any) -> Path:
    """A run that was stopped after some steps."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        stop_after(monkeypatch, steps)
        with pytest.raises(Interrupted):
            distill(world.config(out, **CHANGES | changes), quiet=True)
    return out


def moved(world: World, tmp_path: Path) -> tuple[World, Path]:
    """A stopped run, which was moved with everything that it reads."""
    (tmp_path / "old").mkdir()
    old = copied(world, tmp_path / "old")
    stopped(old, tmp_path / "old" / "runs" / "small")
    (tmp_path / "old").rename(tmp_path / "new")
    root = tmp_path / "new"
    return World(root / "images", root / "clip.npz", root / "teacher"), root / "runs" / "small"


def test_a_run_goes_on_at_another_place_bit_for_bit(world: World, whole: Path, tmp_path: Path) -> None:
    there, run = moved(world, tmp_path)
    distill(there.config(run, **CHANGES), resume=True, quiet=True)
    assert_same(run, whole)
    assert not (tmp_path / "old").exists()
    assert load_config(run / "config.yaml").data.path == str(there.images)


def assert_verified(run: Path) -> None:
    """Every record of a run, and every file of its student, has the hash in SHA256SUMS."""
    for folder in (run, run / "student"):
        lines = (folder / SUMS).read_text().splitlines()[1:]
        hashes = {line[66:]: line[:64] for line in lines}
        assert {name: hash_file(folder / name) for name in hashes} == hashes
    records = ("config.yaml", "environment.json", "inputs.json", "summary.json", "checkpoints/student.json")
    assert all(f"  {name}" in (run / SUMS).read_text() for name in records)


def test_the_hashes_of_a_run_are_those_of_the_session_that_wrote_last(world: World, tmp_path: Path) -> None:
    there, run = moved(world, tmp_path)
    distill(there.config(run, **CHANGES), resume=True, quiet=True)
    assert_verified(run)
    longer = CHANGES | {"train__epochs": 3, "train__workers": 1}
    distill(there.config(run, **longer), resume=True, quiet=True)
    assert_verified(run)
    path = run / "config.yaml"
    assert load_config(path).train.workers == 1
    path.write_text(path.read_text().replace("workers: 1", "workers: 2"))
    error = refusal(distill, there.config(run, **longer), resume=True, quiet=True)
    assert str(path) in error.rule
    assert isinstance(refusal(resumed_config, None, {"out": str(run)}), ConfigError)


def test_files_may_have_other_names(world: World, whole: Path, tmp_path: Path) -> None:
    here = copied(world, tmp_path)
    run = stopped(here, tmp_path / "run")
    clip = here.clip.rename(tmp_path / "features.npz")
    teacher = here.teacher.rename(tmp_path / "big")
    summary = distill(
        World(here.images, clip, teacher).config(run, **CHANGES), resume=True, quiet=True
    ).summary
    assert_same(run, whole)
    assert list(summary["inputs"]["clip.name"]) == [str(clip)]
    assert str(teacher / "model.safetensors") in summary["inputs"]["teachers.1.name"]


def test_a_run_of_a_version_with_fewer_settings_goes_on(world: World, whole: Path, tmp_path: Path) -> None:
    folder = stopped(world, tmp_path / "run")
    path = folder / "config.yaml"
    settings = yaml.safe_load(path.read_text())
    assert settings["fusion"].pop("entropy") == "own"
    path.write_text(yaml.safe_dump(settings))
    (folder / "SHA256SUMS").unlink()
    error = refusal(distill, world.config(folder, fusion__entropy="match-teacher", **CHANGES), resume=True)
    assert "fusion.entropy match-teacher where the run has" in str(error)
    distill(world.config(folder, **CHANGES), resume=True, quiet=True)
    assert_same(folder, whole)


@pytest.mark.slow
@pytest.mark.parametrize("how", ["out", "inside", "settings", "recipe"])
def test_a_moved_run_finds_its_settings_and_what_moved_with_it(
    world: World, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    there, run = moved(world, tmp_path)
    recipe: Path | None = None
    given: dict[str, Any] = {}
    if how == "out":
        given = {"out": str(run)}
    elif how == "inside":
        monkeypatch.chdir(run)
    elif how == "settings":
        recipe = run / "config.yaml"
    else:
        # A recipe whose paths are relative to it, while the command is given elsewhere.
        recipe = there.images.parent / "recipe.yaml"
        text = world.config(run, **CHANGES).to_yaml()
        text = text.replace(f"{world.images.parent}/", "").replace(str(run), "runs/small")
        recipe.write_text(text)
        given = {"out": str(run)}
    distill(resumed_config(recipe, given), resume=True, quiet=True)
    assert_same(run, whole)


def test_settings_without_influence_on_numbers_may_differ(world: World, whole: Path, tmp_path: Path) -> None:
    run = stopped(world, tmp_path / "run")
    changes = {
        "train__workers": 2,
        "train__device": "cpu",
        "train__save_every": 2,
        "train__trackers": [],
        "data__in_memory_gb": 0.0,
        "cache__dir": str(tmp_path / "cache"),
    }
    distill(world.config(run, **CHANGES | changes), resume=True, quiet=True)
    assert_same(run, whole)


@pytest.mark.parametrize("what", ["teacher", "clip"])
def test_a_model_that_was_replaced_is_refused_by_setting(world: World, tmp_path: Path, what: str) -> None:
    here = copied(world, tmp_path)
    run = stopped(here, tmp_path / "run")
    path = {"teacher": here.teacher / "model.safetensors", "clip": here.clip}[what]
    name = {"teacher": "teachers.1.name", "clip": "clip.name"}[what]
    with path.open("ab") as file:
        file.write(b"\0")
    error = refusal(distill, here.config(run, **CHANGES), resume=True, quiet=True)
    assert isinstance(error, CheckpointError)
    assert name in str(error.got)
    assert "content" in str(error.got)
    # The same at another place, given anew.
    other = replace(here, **{what: shutil.move(getattr(here, what), tmp_path / f"moved-{what}")})
    error = refusal(distill, other.config(run, **CHANGES), resume=True, quiet=True)
    assert f"{name} " in str(error.got)
    assert f"moved-{what} where the run has" in str(error.got)


def test_a_teachers_card_is_not_part_of_it(world: World, whole: Path, tmp_path: Path) -> None:
    here = copied(world, tmp_path)
    run = stopped(here, tmp_path / "run")
    (here.teacher / "README.md").write_text("a better description")
    distill(here.config(run, **CHANGES), resume=True, quiet=True)
    assert_same(run, whole)


@pytest.mark.slow
@pytest.mark.parametrize("in_memory_gb", [4.0, 0.0])
@pytest.mark.parametrize("hashed", [True, False], ids=["content", "stamp"])
def test_a_replaced_image_is_refused_by_name_and_can_be_accepted(
    world: World,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    in_memory_gb: float,
    hashed: bool,
) -> None:
    monkeypatch.setattr(inputs, "are_hashed", lambda splits: hashed)
    here = copied(world, tmp_path)
    run = stopped(here, tmp_path / "run", data__in_memory_gb=in_memory_gb)
    config = here.config(run, data__in_memory_gb=in_memory_gb, **CHANGES)
    replaced = here.images / "train" / "bee" / "3.png"
    time = replaced.stat().st_mtime + 60
    Image.new("RGB", (16, 16), "white").save(replaced)
    os.utime(replaced, (time, time))
    error = refusal(distill, config, resume=True, quiet=True)
    assert isinstance(error, CheckpointError)
    assert "train/bee/3.png" in str(error.got)
    assert "1 of " in str(error.got)
    assert "--accept-changed-images" in str(error.fix)
    capsys.readouterr()
    distill(config, resume=True, accept_changed_images=True)
    assert "train/bee/3.png" in capsys.readouterr().out
    session = json.loads((run / "environment.json").read_text())["resumed"][-1]
    assert session["step"] == STEPS + 1
    assert "train/bee/3.png" in session["images"][0]
    # From now on, these are the images of the run.
    distill(config, resume=True, quiet=True)


def test_a_removed_image_changes_the_order_and_cannot_be_accepted(world: World, tmp_path: Path) -> None:
    here = copied(world, tmp_path)
    run = stopped(here, tmp_path / "run")
    for number in range(4):
        (here.images / "train" / "bee" / f"{number}.png").unlink()
    config = here.config(run, **CHANGES)
    error = refusal(distill, config, resume=True, accept_changed_images=True, quiet=True)
    assert "33 images of train where the run has 36" in str(error.got)
    assert "--accept" not in str(error.fix)


def test_renamed_classes_are_refused(world: World, tmp_path: Path) -> None:
    here = copied(world, tmp_path)
    run = stopped(here, tmp_path / "run", method__name="ce")
    for split in ("train", "test"):
        (here.images / split / "cow").rename(here.images / split / "dog")
    error = refusal(distill, here.config(run, method__name="ce", **CHANGES), resume=True, quiet=True)
    assert "dog" in str(error)
    assert "cow" in str(error)


def test_images_are_accepted_in_resumed_runs_only(world: World, tmp_path: Path) -> None:
    error = refusal(distill, world.config(tmp_path / "run"), accept_changed_images=True, quiet=True)
    assert isinstance(error, ConfigError)
    assert not (tmp_path / "run").exists()


def test_another_environment_is_reported_with_both_values(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = stopped(world, tmp_path / "run")
    path = run / "environment.json"
    record = json.loads(path.read_text())
    version = record["packages"]["torch"]
    record["packages"]["torch"], record["device"] = "1.0.0", "cuda"
    path.write_text(json.dumps(record))
    record_hashes(run, [path.name])
    capsys.readouterr()
    distill(world.config(run, **CHANGES), resume=True)
    out = capsys.readouterr().out
    assert "may not have the same bits" in out
    assert f"packages.torch {version} where the run had 1.0.0" in out
    assert "device cpu where the run had cuda" in out
    session = json.loads(path.read_text())["resumed"][-1]
    assert session["changes"]["packages.torch"] == ["1.0.0", version]
    # The next session is compared with this one.
    distill(world.config(run, **CHANGES), resume=True)
    assert "same bits" not in capsys.readouterr().out


def test_the_same_environment_is_not_mentioned(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = stopped(world, tmp_path / "run")
    before = (run / "environment.json").read_bytes()
    capsys.readouterr()
    distill(world.config(run, **CHANGES), resume=True)
    assert "warning" not in capsys.readouterr().out
    assert (run / "environment.json").read_bytes() == before


@pytest.mark.slow
@pytest.mark.parametrize("setting", [None, "1"], ids=["default", "by the user"])
def test_the_number_of_threads_is_that_of_the_run(
    world: World,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    setting: str | None,
) -> None:
    for name in environment.THREAD_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    if setting is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", setting)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        run = stopped(world, tmp_path / "run")
        torch.set_num_threads(1)
        capsys.readouterr()
        distill(world.config(run, **CHANGES), resume=True)
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(threads)
    out = capsys.readouterr().out
    if setting is None:
        assert "threads: 2, as when the run was started (here 1)" in out
        assert "same bits" not in out
    else:
        assert "same bits as an uninterrupted one: threads 1 where the run had 2" in out


@pytest.mark.slow
def test_a_run_with_other_threads_is_bit_identical_with_those_of_its_start(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in environment.THREAD_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        distill(world.config(tmp_path / "whole", **CHANGES), quiet=True)
        run = stopped(world, tmp_path / "run")
        torch.set_num_threads(1)
        distill(world.config(run, **CHANGES), resume=True, quiet=True)
    finally:
        torch.set_num_threads(threads)
    assert_same(run, tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.parametrize("content", ["", "[]", '{"splits": {"train": 1}, "classes": []}', '{"files": {}}'])
def test_a_damaged_record_never_ends_in_a_traceback(world: World, tmp_path: Path, content: str) -> None:
    run = stopped(world, tmp_path / "run", method__name="ce")
    for name in ("inputs.json", "environment.json"):
        (run / name).write_text(content)
    config = world.config(run, method__name="ce", **CHANGES)
    error = refusal(distill, config, resume=True, quiet=True)
    assert "as it was written" in error.rule
    # Whoever removes the hashes accepts what is there.
    (run / SUMS).unlink()
    if "splits" in content:
        error = refusal(distill, config, resume=True, quiet=True)
        assert "inputs.json" in str(error) or "classes" in str(error)
    else:
        distill(config, resume=True, quiet=True)


def test_without_a_record_paths_must_be_the_same(world: World, tmp_path: Path) -> None:
    here = copied(world, tmp_path)
    run = stopped(world, tmp_path / "run")
    (run / "inputs.json").unlink()
    error = refusal(distill, here.config(run, **CHANGES), resume=True, quiet=True)
    assert "data.path" in str(error.got)
    assert "teachers.1.name" in str(error.got)
