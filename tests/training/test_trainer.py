"""A run that cannot read an image saves its state, and goes on bit for bit once the image is back."""

from __future__ import annotations

import math
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from torch import Tensor
from torch.nn import functional

from richkd.core.errors import DataError, RichKDError, WorkerError
from richkd.core.interrupt import StopRequest
from richkd.data.views import render
from richkd.pipeline.assemble import assemble
from richkd.training.checkpoint import load_checkpoint
from richkd.training.run import distill
from richkd.training.run_folder import RunFolder
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


# A network without normalization and SGD with all that a step has, so that a plain loop can do the same.
PLAIN: dict[str, Any] = {
    "student__name": "tests.fixtures:PlainNet",
    "method__name": "ce",
    "optim__name": "momentum",
    "optim__lr": 0.5,
    "optim__momentum": 0.8,
    "optim__weight_decay": 0.01,
    "optim__schedule": "cosine",
    "optim__warmup_epochs": 1,
    "optim__max_grad_norm": 0.3,
    "train__ema_decay": 0.7,
    "train__epochs": 2,
}


def trainer_of(world: World, out: Path, **settings: Any) -> Trainer:
    config = world.config(out, **settings)
    return Trainer(assemble(config, torch.device("cpu")), Accelerator(cpu=True), RunFolder(out))


def rate_of(step: int, steps: int) -> float:
    """One epoch of warm-up to 0.5, one of a cosine."""
    if step < steps:
        return 0.5 * (step + 1) / steps
    return 0.5 * (1 + math.cos(math.pi * (step - steps) / steps)) / 2


def test_steps_are_those_of_a_plain_loop(world: World, tmp_path: Path) -> None:
    trainer = trainer_of(world, tmp_path / "run", **PLAIN)
    parts, student = trainer.parts, trainer.task.student
    weights = {name: p.detach().double().requires_grad_() for name, p in student.named_parameters()}
    speeds = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    average = {name: weight.detach().clone() for name, weight in weights.items()}
    clipped = 0
    for step in range(6):
        epoch = step // STEPS
        (batch,) = parts.training_batches(epoch, [trainer.order.epoch(epoch)[step % STEPS]])
        views = parts.augmentation.draw(parts.config.train.seed, epoch, batch.index_B)
        pixels = render(batch.pixels_BHWC, views, student.size, student.mean, student.std).double()
        terms = trainer.train_step(batch)
        trainer.step += 1

        # The same step by hand, in float64.
        maps = functional.conv2d(pixels, weights["model.stem.weight"], weights["model.stem.bias"], 2, 1)
        logits = maps.relu().mean((2, 3)) @ weights["model.fc.weight"].T + weights["model.fc.bias"]
        loss = functional.cross_entropy(logits, batch.labels_B)
        gradients = dict(zip(weights, torch.autograd.grad(loss, list(weights.values())), strict=True))
        norm = float(sum(float(g.square().sum()) for g in gradients.values()) ** 0.5)
        clipped += norm > 0.3
        for name, weight in weights.items():
            slope = gradients[name] * min(1.0, 0.3 / norm) + 0.01 * weight.detach()
            speeds[name] = slope if step == 0 else 0.8 * speeds[name] + slope
            weight.data -= rate_of(step, STEPS) * speeds[name]
            # timm's average is the weights themselves in the first two steps.
            share = 0.7 if step > 1 else 0.0
            average[name] = share * average[name] + (1 - share) * weight.detach()
        assert float(terms["ce"]) == pytest.approx(loss.item(), rel=1e-4)
    assert clipped > 0
    for network, expected in ((student, weights), (trainer.shipped, average)):
        for name, tensor in network.named_parameters():
            torch.testing.assert_close(
                tensor.detach().double(), expected[name].detach(), rtol=1e-3, atol=1e-5
            )
    assert not torch.allclose(average["model.fc.weight"], weights["model.fc.weight"].detach(), atol=1e-3)


def test_a_checkpoint_has_the_averaged_weights_beside_the_students(world: World, tmp_path: Path) -> None:
    trainer = trainer_of(world, tmp_path / "run", **PLAIN)
    for step in range(3):
        (batch,) = trainer.parts.training_batches(0, [trainer.order.epoch(0)[step]])
        trainer.train_step(batch)
        trainer.step += 1
    trainer.save()
    resumed = trainer_of(world, tmp_path / "run", **PLAIN)
    resumed.resume()
    assert resumed.step == 3

    def states(one: Trainer) -> dict[str, Tensor]:
        named = one.task.named_parameters()
        momenta = {f"momentum.{name}": one.optimizer.state[p]["momentum_buffer"] for name, p in named}
        shipped = {f"shipped.{name}": tensor for name, tensor in one.shipped.state_dict().items()}
        return momenta | shipped | dict(one.task.state_dict())

    before, after = states(trainer), states(resumed)
    assert before.keys() == after.keys()
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())
    name = "model.fc.weight"
    assert not torch.equal(before[f"shipped.{name}"], before[f"student.{name}"])


def test_the_logged_loss_is_the_mean_over_the_steps_so_far(world: World, tmp_path: Path) -> None:
    trainer = trainer_of(world, tmp_path / "run", **PLAIN)
    values = []
    means = []

    class Spy:
        def advance(self, images: int, losses: dict[str, Tensor]) -> None:
            means.append(float(losses["ce"]))

    train_step = trainer.train_step

    def step(batch: Any) -> dict[str, Tensor]:
        terms = train_step(batch)
        values.append(float(terms["ce"]))
        return terms

    trainer.train_step = step  # type: ignore[method-assign]
    trainer.train_epoch(Spy(), StopRequest())  # type: ignore[arg-type]
    assert len(values) == STEPS
    assert means == pytest.approx([sum(values[: n + 1]) / (n + 1) for n in range(STEPS)], rel=1e-5)
