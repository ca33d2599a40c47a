"""A run that was stopped anywhere and went on ends in the very bytes of a run that was not."""

from __future__ import annotations

import random
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from richkd.core.interrupt import Interrupted, StopRequest, catch_stop_signals
from richkd.core.progress import Progress
from richkd.training.checkpoint import load_checkpoint
from richkd.training.run import distill
from richkd.training.trainer import Trainer
from tests.fixtures import STEPS, World, command, one_thread

EPOCHS = 3
SAME = ("checkpoints/last.ckpt", "checkpoints/best.ckpt", "metrics.jsonl", "student/model.safetensors")
OPTIMIZERS: dict[str, dict[str, Any]] = {
    "momentum": {"train__ema_decay": 0.9, "optim__schedule": "cosine"},
    "adamw": {
        "train__ema_decay": 0.9,
        "optim__name": "adamw",
        "optim__lr": 1e-3,
        "train__save_every": 1,
        "augment__mixup_alpha": 0.4,
    },
    "lion": {
        "train__ema_decay": 0.9,
        "optim__name": "lion",
        "optim__lr": 1e-4,
        "optim__decay_norm_and_bias": False,
        "augment__mixup_alpha": 0.4,
        "augment__cutmix_alpha": 1.0,
    },
    # Views that threads change while the main thread trains.
    "effects": {
        "train__ema_decay": 0.9,
        "train__workers": 2,
        "augment__policy": "random-resized-crop",
        "augment__auto_augment": "rand-m9-mstd0.5-inc1",
        "augment__reprob": 0.5,
        "augment__recount": 2,
    },
    # Counters of steps in parameter groups, and as plain numbers in the state.
    "lamb": {"optim__name": "lamb", "optim__lr": 1e-3, "train__ema_decay": 0.9},
    "adabelief": {"optim__name": "adabelief", "optim__lr": 1e-3, "train__ema_decay": 0.9},
}
LONG: dict[str, Any] = {
    "train__ema_decay": 0.9,
    "train__epochs": 30,
    "train__save_every": 1,
    "train__eval_every": 10,
}


@pytest.fixture(scope="module")
def whole(world: World, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Runs that were never stopped."""
    folders = {name: tmp_path_factory.mktemp(name) / "run" for name in OPTIMIZERS}
    for name, folder in folders.items():
        distill(world.config(folder, **OPTIMIZERS[name]), quiet=True)
    return folders


def stop_after(monkeypatch: pytest.MonkeyPatch, steps: int) -> None:
    """Ask the next run to stop while it is in its step number ``steps``, as a signal would."""
    epoch, step = Trainer.train_epoch, Trainer.train_step
    request = StopRequest()

    def train_epoch(self: Trainer, progress: Progress, stop: StopRequest) -> None:
        nonlocal request
        request = stop
        epoch(self, progress, stop)

    def train_step(self: Trainer, batch: Any) -> Any:
        request.requested = self.step + 1 >= steps
        return step(self, batch)

    monkeypatch.setattr(Trainer, "train_epoch", train_epoch)
    monkeypatch.setattr(Trainer, "train_step", train_step)


def assert_same(a: Path, b: Path) -> None:
    for name in SAME:
        assert (a / name).read_bytes() == (b / name).read_bytes(), name


@pytest.mark.slow
@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("steps", [1, STEPS - 1, STEPS, STEPS + 2, EPOCHS * STEPS])
def test_a_stopped_run_goes_on_bit_for_bit(
    world: World, whole: dict[str, Path], tmp_path: Path, name: str, steps: int
) -> None:
    config = world.config(tmp_path / "run", **OPTIMIZERS[name])
    with pytest.MonkeyPatch.context() as monkeypatch:
        stop_after(monkeypatch, steps)
        with pytest.raises(Interrupted):
            distill(config, quiet=True)
    saved, _ = load_checkpoint(tmp_path / "run" / "checkpoints" / "last.ckpt")
    assert saved.scalars["step"] == steps
    assert not (tmp_path / "run" / "student").exists()
    distill(config, resume=True, quiet=True)
    assert_same(tmp_path / "run", whole[name])


def test_a_checkpoint_holds_all_that_the_comparison_is_about(whole: dict[str, Path]) -> None:
    for name, moment in (("momentum", "momentum_buffer"), ("adamw", "exp_avg_sq"), ("lion", "exp_avg")):
        checkpoint, warning = load_checkpoint(whole[name] / "checkpoints" / "last.ckpt")
        assert warning is None
        assert checkpoint.scalars["step"] == EPOCHS * STEPS
        trained = [key for key in checkpoint.part("task") if key.startswith("student.")]
        assert {f"average.{key.removeprefix('student.')}" for key in trained} <= checkpoint.tensors.keys()
        memory = checkpoint.part("task.objective.terms.contrastive.memory")
        assert {"negatives.student_ND", "negatives.target_ND", "log_normalizers"} <= memory.keys()
        assert any(key.endswith(moment) for key in checkpoint.part("optimizer"))
        assert set(checkpoint.part("sums")) == {"ce", "kd", "contrastive"}


def test_stopping_again_and_again_changes_nothing(
    world: World, whole: dict[str, Path], tmp_path: Path
) -> None:
    config = world.config(tmp_path / "run", **OPTIMIZERS["momentum"])
    for steps in (2, 3, 7, 8, 9):
        with pytest.MonkeyPatch.context() as monkeypatch:
            stop_after(monkeypatch, steps)
            with pytest.raises(Interrupted):
                distill(config, resume=steps > 2, quiet=True)
    distill(config, resume=True, quiet=True)
    assert_same(tmp_path / "run", whole["momentum"])


def test_a_finished_run_can_be_resumed_and_stays_as_it_is(
    world: World, whole: dict[str, Path], tmp_path: Path
) -> None:
    config = world.config(tmp_path / "run", **OPTIMIZERS["adamw"])
    first = distill(config, quiet=True)
    again = distill(config, resume=True, quiet=True)
    assert_same(tmp_path / "run", whole["adamw"])
    assert again.summary["splits"] == first.summary["splits"]


def test_a_crash_between_validation_and_its_checkpoint_is_undone(
    world: World, whole: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = world.config(tmp_path / "run", **OPTIMIZERS["momentum"])
    save = Trainer.save

    def crash_in_second_epoch(self: Trainer) -> None:
        if self.step == 2 * STEPS:
            raise RuntimeError("power cut")
        save(self)

    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "save", crash_in_second_epoch)
        with pytest.raises(RuntimeError, match="power cut"):
            distill(config, quiet=True)
    with (tmp_path / "run" / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 2, "st')
    distill(config, resume=True, quiet=True)
    assert_same(tmp_path / "run", whole["momentum"])


def test_a_damaged_checkpoint_is_gone_round_with_a_warning(
    world: World, whole: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = world.config(tmp_path / "run", **OPTIMIZERS["momentum"])
    with pytest.MonkeyPatch.context() as monkeypatch:
        stop_after(monkeypatch, 2 * STEPS + 1)
        with pytest.raises(Interrupted):
            distill(config, quiet=True)
    last = tmp_path / "run" / "checkpoints" / "last.ckpt"
    last.write_bytes(last.read_bytes()[:-1])
    capsys.readouterr()
    distill(config, resume=True)
    assert "warning: last.ckpt: damaged" in capsys.readouterr().out
    assert_same(tmp_path / "run", whole["momentum"])


def start(world: World, out: Path, *more: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command("distill", *world.options(out, **LONG), *more),
        env=one_thread(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def wait_for_save(process: subprocess.Popen[str], last: Path, after: float) -> None:
    for _ in range(60_000):
        if last.exists() and last.stat().st_mtime > after:
            return
        assert process.poll() is None, process.stdout and process.stdout.read()
        time.sleep(0.002)
    raise AssertionError("no checkpoint was written")


@pytest.mark.slow
def test_sigterm_saves_and_the_run_goes_on_bit_for_bit(world: World, tmp_path: Path) -> None:
    out, last = tmp_path / "stopped", tmp_path / "stopped" / "checkpoints" / "last.ckpt"
    process = start(world, out)
    wait_for_save(process, last, 0.0)
    process.send_signal(signal.SIGTERM)
    printed, _ = process.communicate(timeout=120)
    assert process.returncode == 130, printed
    assert "stopped and saved" in printed
    assert "--resume" in printed
    assert "Traceback" not in printed
    step = load_checkpoint(last)[0].scalars["step"]
    assert 1 <= step < LONG["train__epochs"] * STEPS
    distill(world.config(out, **LONG), resume=True, quiet=True)
    distill(world.config(tmp_path / "whole", **LONG), quiet=True)
    assert_same(out, tmp_path / "whole")


@pytest.mark.slow
def test_a_chain_of_sigkills_changes_nothing(world: World, tmp_path: Path) -> None:
    out, last = tmp_path / "killed", tmp_path / "killed" / "checkpoints" / "last.ckpt"
    chance = random.Random(0)
    after = 0.0
    for kill in range(4):
        process = start(world, out, *(["--resume"] if kill else []))
        wait_for_save(process, last, after)
        time.sleep(chance.uniform(0.0, 0.3))
        process.kill()
        assert process.wait() == -signal.SIGKILL, "the run ended before it was killed"
        after = last.stat().st_mtime
    distill(world.config(out, **LONG), resume=True, quiet=True)
    distill(world.config(tmp_path / "whole", **LONG), quiet=True)
    assert_same(out, tmp_path / "whole")


def test_a_second_signal_ends_at_once_and_handlers_are_put_back() -> None:
    # A shell starts what it puts into the background with SIGINT ignored.
    at_start = signal.signal(signal.SIGINT, signal.default_int_handler)
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    try:
        with catch_stop_signals() as stop:
            signal.raise_signal(signal.SIGINT)
            assert stop.requested
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(signal.SIGINT)
        assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before
    finally:
        signal.signal(signal.SIGINT, at_start)
