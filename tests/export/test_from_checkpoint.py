"""Students of runs that are not finished, and of the best epoch."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image

from richkd.core.checksums import hash_file
from richkd.core.errors import CheckpointError, ModelError
from richkd.core.interrupt import Interrupted
from richkd.export.description import describe
from richkd.export.latency import run_benchmark
from richkd.export.student import load_student
from richkd.training.checkpoint import load_checkpoint
from richkd.training.run import distill
from tests.core.closed import LONG, close
from tests.fixtures import CLASSES, STEPS, World, refusal
from tests.training.test_resume import stop_after


@pytest.fixture(scope="module")
def finished(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("finished") / "run"
    distill(world.config(run, method__name="ce", train__ema_decay=0.5, train__epochs=2), quiet=True)
    return run


@pytest.fixture(scope="module")
def unfinished(world: World, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run without averaged weights that was stopped after an epoch and a step."""
    run = tmp_path_factory.mktemp("unfinished") / "run"
    # The resolution and the input are not those that follow from the name.
    changes = {"student__size": 24, "student__mean": "[0.1, 0.2, 0.3]"}
    config = world.config(run, method__name="ce", **changes)
    with pytest.MonkeyPatch.context() as monkeypatch:
        stop_after(monkeypatch, STEPS + 1)
        with pytest.raises(Interrupted):
            distill(config, quiet=True)
    return run


def test_the_last_checkpoint_of_a_finished_run_is_its_student(world: World, finished: Path) -> None:
    student, last = load_student(finished), load_student(finished, "last")
    assert student.note is None
    assert last.note is not None
    assert "last.ckpt, after epoch 2 (step 8)" in last.note
    assert "temperature is not fitted" in last.note
    assert (last.class_names, last.temperature) == (CLASSES, 1.0)
    state = student.network.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in last.network.state_dict().items())
    assert not last.network.training


def test_the_best_checkpoint_has_the_averaged_weights(finished: Path) -> None:
    best = load_student(finished, "best").network.state_dict()
    saved, _ = load_checkpoint(finished / "checkpoints" / "best.ckpt")
    assert best.keys() == saved.part("average").keys()
    assert all(torch.equal(tensor, saved.tensors[f"average.{name}"]) for name, tensor in best.items())
    same = load_student(finished / "checkpoints" / "best.ckpt").network.state_dict()
    assert all(torch.equal(tensor, same[name]) for name, tensor in best.items())
    inner = load_student(finished / "student", "best").network.state_dict()
    assert all(torch.equal(tensor, inner[name]) for name, tensor in best.items())


def test_a_run_that_is_not_finished_has_the_student_of_its_last_checkpoint(unfinished: Path) -> None:
    student = load_student(unfinished)
    assert student.note is not None
    assert "last.ckpt, after epoch 1 and 1 of 4 steps (step 5)" in student.note
    assert student.network.size == 24
    assert student.network.mean == (0.1, 0.2, 0.3)
    saved, _ = load_checkpoint(unfinished / "checkpoints" / "last.ckpt")
    state = student.network.state_dict()
    assert all(torch.equal(t, state[name]) for name, t in saved.part("task.student").items())
    probs_BC = student.probabilities([Image.new("RGB", (30, 20), "red")])
    assert float(probs_BC.sum()) == pytest.approx(1)
    best = load_student(unfinished, "best")
    assert best.note is not None
    assert "best.ckpt, after epoch 1 (step 4)" in best.note


def test_checkpoints_need_no_other_file_of_the_run(unfinished: Path, tmp_path: Path) -> None:
    shutil.copytree(unfinished / "checkpoints", tmp_path / "elsewhere")
    assert load_student(tmp_path / "elsewhere" / "best.ckpt").class_names == CLASSES


def test_a_damaged_checkpoint_is_replaced_by_the_one_before(unfinished: Path, tmp_path: Path) -> None:
    shutil.copytree(unfinished, tmp_path / "run")
    last = tmp_path / "run" / "checkpoints" / "last.ckpt"
    last.write_bytes(last.read_bytes()[:-1])
    damaged = last.read_bytes()
    note = load_student(tmp_path / "run").note
    assert note is not None
    assert "last.previous.ckpt, after epoch 1 (step 4)" in note
    # Looking at a run never changes it.
    assert last.read_bytes() == damaged
    for _ in ("damaged", "missing"):
        student = load_student(tmp_path / "run")
        assert student.files == (last.with_name("last.previous.ckpt"),)
        about = describe(student, tmp_path / "run")
        line = f"{hash_file(student.files[0])}  last.previous.ckpt\n"
        assert about.source["files"] == ["last.previous.ckpt"]
        assert about.source["sha256"] == hashlib.sha256(line.encode()).hexdigest()
        result = run_benchmark(str(tmp_path / "run"), batches=(1,), rounds=1, warmup=0)
        assert result.bytes == student.files[0].stat().st_size
        last.unlink(missing_ok=True)
    last.write_bytes(damaged)
    last.with_name("last.previous.ckpt").unlink()
    error = refusal(load_student, tmp_path / "run")
    assert isinstance(error, CheckpointError)
    assert "last.ckpt: damaged" in str(error.got)


def test_a_run_without_checkpoints_is_refused(unfinished: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    shutil.copy(unfinished / "config.yaml", run)
    for which in (None, "best", "last"):
        error = refusal(load_student, run, which)
        assert isinstance(error, CheckpointError)
        assert "has no checkpoint yet" in error.rule
    shutil.copy(unfinished / "checkpoints" / "last.ckpt", run / "checkpoints")
    error = refusal(load_student, run, "best")
    assert "no best checkpoint" in error.rule
    assert "--checkpoint last" in str(error.fix)
    # Only the description of the network is missing now.
    assert "student.json" in refusal(load_student, run).rule


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"steps_per_epoch": 4}', '{"steps_per_epoch": 0}'])
def test_a_damaged_description_is_refused(unfinished: Path, tmp_path: Path, content: str) -> None:
    shutil.copytree(unfinished, tmp_path / "run")
    (tmp_path / "run" / "checkpoints" / "student.json").write_text(content)
    error = refusal(load_student, tmp_path / "run")
    assert "student.json" in error.rule


def test_what_is_no_run_has_no_checkpoints(finished: Path, tmp_path: Path) -> None:
    shutil.copytree(finished / "student", tmp_path / "student")
    error = refusal(load_student, tmp_path / "student", "best")
    assert "needs the folder of a run" in error.rule
    assert isinstance(refusal(load_student, tmp_path / "none"), ModelError)
    error = refusal(load_student, tmp_path / "none" / "best.ckpt")
    assert isinstance(error, CheckpointError)
    error = refusal(load_student, finished / "checkpoints" / "best.ckpt", "last")
    assert "give one of both" in str(error.fix)
    shutil.copytree(finished, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    error = refusal(load_student, tmp_path / "run", "best")
    assert "omit --checkpoint" in str(error.fix)


def test_what_cannot_be_looked_at_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = tmp_path / "run"
    for file in ("config.yaml", "checkpoints/last.ckpt", "student/config.json"):
        (run / file).parent.mkdir(parents=True, exist_ok=True)
        (run / file).write_text("")
    for closed, which in ((run, "last"), (run / "checkpoints", "last"), (run / "checkpoints", "best")):
        with monkeypatch.context() as context:
            close(context, closed)
            error = refusal(load_student, run, which)
        assert isinstance(error, CheckpointError)
        assert (error.rule, error.got) == (
            f"The checkpoints in {run / 'checkpoints'} must be readable",
            "Permission denied",
        )
    with monkeypatch.context() as context:
        close(context, run)
        assert "Permission denied" in str(refusal(load_student, run / "checkpoints" / "last.ckpt").got)
    # A student that is there is not replaced by a checkpoint.
    close(monkeypatch, run / "student")
    assert isinstance(refusal(load_student, run), ModelError)


def test_names_that_are_too_long() -> None:
    assert refusal(load_student, LONG).got == "File name too long"
    for name, which in ((LONG, "last"), (f"{LONG}.ckpt", None)):
        assert isinstance(refusal(load_student, name, which), CheckpointError)
