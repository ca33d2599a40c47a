"""A run that cannot read an image saves its state, and goes on bit for bit once the image is back."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from richkd.core.errors import DataError, RichKDError, WorkerError
from richkd.training.checkpoint import load_checkpoint
from richkd.training.run import distill
from richkd.training.trainer import Trainer
from tests.fixtures import STEPS, World, refusal
from tests.training.test_resume import assert_same

STREAMED: dict[str, Any] = {"data__in_memory_gb": 0, "method__name": "kd", "train__ema_decay": 0.9}
POLICIES = {
    "crop-flip": {"augment__policy": "crop-flip"},
    "random-resized-crop": {"augment__policy": "random-resized-crop"},
}


@pytest.fixture
def copied(world: World, tmp_path: Path) -> World:
    """The small world with images that a test may change; copies keep their times."""
    shutil.copytree(world.images, tmp_path / "images")
    return World(tmp_path / "images", world.clip, world.teacher)


def lose(monkeypatch: pytest.MonkeyPatch, images: list[Path], step: int, place: str) -> None:
    """Move images away after a number of steps, before the next one or before the validation."""
    train_step, end_epoch = Trainer.train_step, Trainer.end_epoch

    def lose_now() -> None:
        for image in images:
            image.rename(image.with_suffix(".lost"))

    def step_and_lose(self: Trainer, batch: Any) -> Any:
        terms = train_step(self, batch)
        if place == "training" and self.step + 1 == step:
            lose_now()
        return terms

    def lose_and_end(self: Trainer) -> Any:
        if place == "validation" and self.step == step:
            lose_now()
        return end_epoch(self)

    monkeypatch.setattr(Trainer, "train_step", step_and_lose)
    monkeypatch.setattr(Trainer, "end_epoch", lose_and_end)


def interrupted(world: World, out: Path, step: int, place: str, **settings: Any) -> RichKDError:
    """The error of a run that loses its images, which are put back afterwards."""
    images = sorted((world.images / "train").rglob("*.png"))
    with pytest.MonkeyPatch.context() as monkeypatch:
        lose(monkeypatch, images, step, place)
        error = refusal(distill, world.config(out, **settings), quiet=True)
    for image in images:
        image.with_suffix(".lost").rename(image)
    return error


@pytest.mark.slow
@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize(
    ("place", "step"), [("training", STEPS + 2), ("training", STEPS), ("validation", STEPS)]
)
def test_a_run_whose_images_are_gone_is_resumed_bit_for_bit(
    copied: World, tmp_path: Path, policy: str, place: str, step: int
) -> None:
    settings = STREAMED | POLICIES[policy]
    distill(copied.config(tmp_path / "whole", **settings), quiet=True)
    error = interrupted(copied, tmp_path / "run", step, place, **settings)
    assert isinstance(error, DataError)
    assert "no such file" in str(error.got)
    assert ".png" in error.rule
    assert "--resume" in str(error.fix)
    saved, _ = load_checkpoint(tmp_path / "run" / "checkpoints" / "last.ckpt")
    assert saved.scalars["step"] == step
    distill(copied.config(tmp_path / "run", **settings), resume=True, quiet=True)
    assert_same(tmp_path / "run", tmp_path / "whole")


def test_a_changed_image_does_not_get_outputs_of_its_old_pixels(copied: World, tmp_path: Path) -> None:
    settings = STREAMED | {"cache__dir": str(tmp_path / "cache")}
    train_step, change = Trainer.train_step, False

    def step_and_change(self: Trainer, batch: Any) -> Any:
        for image in (copied.images / "train").rglob("*.png"):
            # A time alone is no change; other bytes with the same pixels are.
            os.utime(image)
            if change:
                image.write_bytes(image.read_bytes() + b"\0")
        return train_step(self, batch)

    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(Trainer, "train_step", step_and_change)
        distill(copied.config(tmp_path / "touched", **settings), quiet=True)
        change = True
        error = refusal(distill, copied.config(tmp_path / "run", **settings), quiet=True)
    assert "must not change" in error.rule
    assert "--accept-changed-images" in str(error.fix)
    before = len(list((tmp_path / "cache").iterdir()))
    config = copied.config(tmp_path / "run", **settings)
    assert "images of train" in str(refusal(distill, config, resume=True, quiet=True).got)
    distill(config, resume=True, accept_changed_images=True, quiet=True)
    assert len(list((tmp_path / "cache").iterdir())) > before


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_a_run_whose_worker_is_killed_can_be_resumed_without_workers(copied: World, tmp_path: Path) -> None:
    distill(copied.config(tmp_path / "whole", **STREAMED), quiet=True)
    train_step = Trainer.train_step

    def step_and_kill(self: Trainer, batch: Any) -> Any:
        loader = self.parts.stores.training._reader._loader  # type: ignore[union-attr]
        for process in loader._iterator._workers:
            os.kill(process.pid, signal.SIGKILL)
        return train_step(self, batch)

    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(Trainer, "train_step", step_and_kill)
        settings = STREAMED | {"train__workers": 1}
        error = refusal(distill, copied.config(tmp_path / "run", **settings), quiet=True)
    assert isinstance(error, WorkerError)
    assert "--train.workers 0" in str(error.fix)
    distill(copied.config(tmp_path / "run", **STREAMED), resume=True, quiet=True)
    assert_same(tmp_path / "run", tmp_path / "whole")


def test_the_learning_rate_of_a_line_is_that_of_the_last_step(world: World, tmp_path: Path) -> None:
    rates: list[float] = []
    end_epoch = Trainer.end_epoch

    def compare(self: Trainer) -> Any:
        rates.append(self.optimizer.param_groups[0]["lr"])
        record = end_epoch(self)
        assert record["lr"] == rates[-1]
        return record

    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(Trainer, "end_epoch", compare)
        distill(world.config(tmp_path / "run", method__name="ce", optim__schedule="cosine"), quiet=True)
    assert len(set(rates)) == 3
    assert torch.tensor(rates).isfinite().all()
