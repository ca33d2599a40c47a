"""A run that was killed at any stage goes on with --resume and ends as if nothing had happened."""

from __future__ import annotations

import os
import shutil
import signal
import traceback
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from richkd.config.resumed import resumed_config
from richkd.core.errors import CheckpointError
from richkd.core.folder_lock import LOCK
from richkd.core.temporary import temporary_path
from richkd.training import finalize, run, run_folder, trainer
from richkd.training.run import distill, teach_folds
from richkd.training.run_folder import RunFolder
from richkd.training.trainer import Trainer
from tests.fixtures import World, refusal

pytestmark = pytest.mark.slow

SAME = ("checkpoints/last.ckpt", "checkpoints/best.ckpt", "metrics.jsonl", "student/model.safetensors")
# What is called last, and how many calls of it end well.
STAGES: dict[str, tuple[Any, str, int]] = {
    "before anything is opened": (run, "assemble", 0),
    "before the folder is filled": (RunFolder, "create", 0),
    "after the settings": (RunFolder, "write_text", 1),
    "before the teachers are measured": (run, "report_teachers", 0),
    "in the first step": (Trainer, "train_step", 0),
    "before the first line": (RunFolder, "append", 0),
    "before the best checkpoint": (trainer, "save_checkpoint", 0),
    "between the best and the last one": (trainer, "save_checkpoint", 1),
    "after the first epoch": (Trainer, "end_epoch", 1),
    "before the end": (run, "finish", 0),
    "before the student": (finalize, "save_student", 0),
    "before the card": (finalize, "write_card", 0),
    "before the summary": (RunFolder, "write_text", 5),
}
BEFORE_A_CHECKPOINT = tuple(STAGES)[:8]


def killed(work: Callable[[], Any], owner: Any, name: str, calls: int) -> None:
    """Do work in a process that kills itself when a function was called often enough."""
    pid = os.fork()
    if pid == 0:
        original = getattr(owner, name)
        left = calls

        def kill(*args: Any, **kwargs: Any) -> Any:
            nonlocal left
            left -= 1
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return original(*args, **kwargs)

        setattr(owner, name, kill)
        try:
            work()
        except BaseException:
            # pytest shows what a process of its own writes to the file descriptor.
            os.write(2, traceback.format_exc().encode())
        finally:
            os._exit(1)
    assert os.WTERMSIG(os.waitpid(pid, 0)[1]) == signal.SIGKILL


@pytest.fixture(scope="module")
def whole(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole") / "run"
    distill(world.config(out, train__epochs=2), quiet=True)
    return out


def assert_same(out: Path, whole: Path) -> None:
    for name in SAME:
        assert (out / name).read_bytes() == (whole / name).read_bytes(), name
    # Neither the lock nor temporary files of the killed process are left.
    assert not [path for path in out.rglob("*") if path.name == LOCK or path.suffix == ".tmp"]


@pytest.mark.parametrize("stage", STAGES)
def test_a_run_that_was_killed_goes_on(
    world: World, whole: Path, tmp_path: Path, stage: str, capsys: pytest.CaptureFixture[str]
) -> None:
    config = world.config(tmp_path / "run", train__epochs=2)
    killed(lambda: distill(config, quiet=True), *STAGES[stage])
    assert (tmp_path / "run" / LOCK).exists()
    capsys.readouterr()
    distill(config, resume=True)
    anew = "no checkpoint yet: the run starts from the beginning"
    assert (anew in capsys.readouterr().out) == (stage in BEFORE_A_CHECKPOINT)
    assert_same(tmp_path / "run", whole)


def test_a_run_may_be_killed_again_and_again_before_its_first_checkpoint(
    world: World, whole: Path, tmp_path: Path
) -> None:
    config = world.config(tmp_path / "run", train__epochs=2)
    for place, stage in enumerate(BEFORE_A_CHECKPOINT):
        killed(lambda again=place > 0: distill(config, resume=again, quiet=True), *STAGES[stage])  # type: ignore[misc]
    distill(config, resume=True, quiet=True)
    assert_same(tmp_path / "run", whole)


def test_a_run_that_was_killed_before_its_first_checkpoint_keeps_its_settings(
    world: World, tmp_path: Path
) -> None:
    config = world.config(tmp_path / "run", train__epochs=2)
    killed(lambda: distill(config, quiet=True), *STAGES["in the first step"])
    error = refusal(distill, world.config(tmp_path / "run", train__epochs=3), resume=True, quiet=True)
    assert "train.epochs 3 where the run has 2" in str(error.got)


def test_a_run_that_was_killed_before_its_first_checkpoint_keeps_its_images(
    world: World, tmp_path: Path
) -> None:
    shutil.copytree(world.images, tmp_path / "images")
    here = replace(world, images=tmp_path / "images")
    config = here.config(tmp_path / "run", train__epochs=1)
    killed(lambda: distill(config, quiet=True), *STAGES["in the first step"])
    Image.new("RGB", (16, 16), "white").save(tmp_path / "images" / "train" / "bee" / "3.png")
    record = (tmp_path / "run" / "inputs.json").read_bytes()
    error = refusal(distill, config, resume=True, quiet=True)
    assert "train/bee/3.png" in str(error.got)
    assert (tmp_path / "run" / "inputs.json").read_bytes() == record
    distill(config, resume=True, accept_changed_images=True, quiet=True)
    distill(config, resume=True, quiet=True)


def test_a_run_that_was_killed_before_its_first_checkpoint_is_found_in_its_folder(
    world: World, whole: Path, tmp_path: Path
) -> None:
    config = world.config(tmp_path / "run", train__epochs=2)
    killed(lambda: distill(config, quiet=True), *STAGES["in the first step"])
    distill(resumed_config(None, {"out": str(tmp_path / "run")}), resume=True, quiet=True)
    assert_same(tmp_path / "run", whole)


def test_a_kill_while_an_older_run_is_removed_can_be_undone(
    world: World, whole: Path, tmp_path: Path
) -> None:
    config = world.config(tmp_path / "run", train__epochs=2)
    distill(config, quiet=True)
    files = len([path for path in (tmp_path / "run").rglob("*") if path.is_file()])
    for calls in (0, 1, 5, files - 3):
        killed(lambda: distill(config, overwrite=True, quiet=True), Path, "unlink", calls)
        distill(config, resume=True, quiet=True)
        assert_same(tmp_path / "run", whole)


def test_a_finished_run_without_its_checkpoints_is_not_trained_anew(world: World, tmp_path: Path) -> None:
    config = world.config(tmp_path / "run", train__epochs=1)
    distill(config, quiet=True)
    student = (tmp_path / "run" / "student" / "model.safetensors").read_bytes()
    for file in (tmp_path / "run" / "checkpoints").iterdir():
        file.unlink()
    error = refusal(distill, config, resume=True, quiet=True)
    assert isinstance(error, CheckpointError)
    assert "no checkpoint" in error.rule
    assert (tmp_path / "run" / "student" / "model.safetensors").read_bytes() == student


@pytest.mark.parametrize(
    ("owner", "name", "calls"),
    [
        (run, "assemble", 0),
        (run, "assemble", 1),
        (RunFolder, "create", 1),
        # Five files of the first fold's start, and its summary, come before.
        (RunFolder, "write_text", 7),
        (Trainer, "train_step", 3),
        (trainer, "save_checkpoint", 3),
        (run, "finish", 1),
        (run, "_teach_fold", 1),
    ],
)
def test_folds_that_were_killed_go_on(
    world: World, tmp_path: Path, owner: Any, name: str, calls: int, folds: dict[str, bytes]
) -> None:
    config = world.config(tmp_path / "folds", method__name="ce", train__epochs=1)
    killed(lambda: teach_folds(config, 2, quiet=True), owner, name, calls)
    finished = {
        path: path.stat().st_mtime_ns
        for path in (tmp_path / "folds" / "fold-0").rglob("*")
        if (tmp_path / "folds" / "fold-0" / "summary.json").exists()
    }
    teach_folds(config, 2, resume=True, quiet=True)
    assert {path: path.stat().st_mtime_ns for path in finished} == finished
    assert contents(tmp_path / "folds") == folds


def contents(out: Path) -> dict[str, bytes]:
    names = [f"fold-{fold}/{name}" for fold in range(2) for name in SAME]
    return {name: (out / name).read_bytes() for name in names}


@pytest.fixture(scope="module")
def folds(world: World, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    out = tmp_path_factory.mktemp("folds") / "whole"
    teach_folds(world.config(out, method__name="ce", train__epochs=1), 2, quiet=True)
    assert sorted(path.name for path in out.iterdir()) == ["fold-0", "fold-1"]
    return contents(out)


def test_finished_folds_of_other_settings_are_refused(world: World, tmp_path: Path) -> None:
    def config(**changes: Any) -> Any:
        return world.config(tmp_path, method__name="ce", **({"train__epochs": 1} | changes))

    teach_folds(config(), 2, quiet=True)
    # The new settings reached the first fold only.
    killed(lambda: teach_folds(config(train__seed=1), 2, overwrite=True, quiet=True), run, "_teach_fold", 1)
    error = refusal(teach_folds, config(train__seed=1), 2, resume=True, quiet=True)
    assert "train.seed 1 where the run has 0" in str(error.got)
    assert "fold-1" in error.rule


def test_what_a_killed_process_left_in_a_finished_fold_is_removed(world: World, tmp_path: Path) -> None:
    config = world.config(tmp_path / "folds", method__name="ce", train__epochs=1)
    teach_folds(config, 2, quiet=True)
    pid = os.fork()
    if pid == 0:
        temporary_path(tmp_path / "folds" / "fold-0" / "SHA256SUMS").touch()
        os._exit(0)
    os.waitpid(pid, 0)
    (left,) = (tmp_path / "folds" / "fold-0").glob(".SHA256SUMS.*.tmp")
    teach_folds(config, 2, resume=True, quiet=True)
    assert not left.exists()


@pytest.mark.parametrize("calls", range(4))
def test_a_run_that_was_killed_while_it_removed_lines_goes_on(
    world: World, whole: Path, tmp_path: Path, calls: int
) -> None:
    """Lines of the epoch in which a run stopped are removed when it is resumed, and their hashes renewed."""
    config = world.config(tmp_path / "run", train__epochs=2)
    killed(lambda: distill(config, quiet=True), *STAGES["before the end"])
    killed(lambda: distill(config, resume=True, quiet=True), run_folder, "record_hashes", calls)
    distill(config, resume=True, quiet=True)
    assert_same(tmp_path / "run", whole)
