"""The plain training loop, and what a callback sees of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset

import richkd
from richkd.core.errors import ConfigError, DataError, NonFiniteError
from richkd.loops.callbacks import Callback
from richkd.loops.distiller import Distiller
from richkd.loops.loop import accuracy, train
from tests.fixtures import refusal

CLASSES, SIZE = 3, 4


def separable(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Images whose brightest channel is their class."""
    generator = torch.Generator().manual_seed(seed)
    labels_B = torch.arange(count) % CLASSES
    pixels = 0.3 * torch.rand(count, 3, SIZE, SIZE, generator=generator)
    pixels[torch.arange(count), labels_B] += 0.5
    return pixels, labels_B


def linear(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * SIZE * SIZE, CLASSES))


def knowing(pixels_B3HW: Tensor) -> Tensor:
    return 20 * pixels_B3HW.mean((2, 3))


class Recorder(Callback):
    def __init__(self) -> None:
        self.seen: list[tuple[str, Any]] = []

    def on_start(self, steps: int) -> None:
        self.seen.append(("start", steps))

    def on_step(self, step: int, losses: Mapping[str, Tensor]) -> None:
        self.seen.append(("step", (step, sorted(losses))))

    def on_epoch(self, epoch: int, record: Mapping[str, Any]) -> None:
        self.seen.append(("epoch", (epoch, sorted(record))))

    def on_end(self, result: Any) -> None:
        self.seen.append(("end", len(result)))


def test_a_student_learns_from_the_teacher_alone() -> None:
    student = linear(0)
    batches = [separable(16, seed) for seed in range(4)]
    held_out = [separable(48, 99)]
    history = richkd.distill(
        student,
        batches,
        teachers=[knowing],
        classes=CLASSES,
        size=SIZE,
        objective=[{"kd": {"temperature": 2}}],
        epochs=60,
        optimizer=torch.optim.SGD(student.parameters(), lr=0.2),
        validation=held_out,
    )
    assert history[-1]["kd"] < 0.5 * history[0]["kd"]
    assert history[-1]["top1"] > 0.95
    assert history[-1]["top1"] == accuracy(Distiller(student, [knowing], classes=3, size=4).student, held_out)


def test_callbacks_see_every_moment_once() -> None:
    recorder = Recorder()
    batches = [separable(6, seed) for seed in range(2)]
    train(Distiller(linear(0), [knowing], classes=3, size=4), batches, epochs=2, callbacks=[recorder])
    names = ["ce", "kd"]
    assert recorder.seen == [
        ("start", 4),
        ("step", (1, names)),
        ("step", (2, names)),
        ("epoch", (0, names)),
        ("step", (3, names)),
        ("step", (4, names)),
        ("epoch", (1, names)),
        ("end", 2),
    ]


def test_means_of_losses_are_over_the_steps_of_the_epoch() -> None:
    seen: list[float] = []

    class Keep(Callback):
        def on_step(self, step: int, losses: Mapping[str, Tensor]) -> None:
            seen.append(float(losses["ce"]))

    batches = [separable(6, seed) for seed in range(3)]
    (record,) = train(
        Distiller(linear(0), [knowing], classes=3, size=4), batches, epochs=1, callbacks=[Keep()]
    )
    assert record["ce"] == pytest.approx(sum(seen) / 3)


def test_an_iterator_that_is_used_up_is_named() -> None:
    distiller = Distiller(linear(0), [knowing], classes=3, size=4)
    with pytest.raises(DataError, match="needs batches"):
        train(distiller, iter([separable(6, 0)]), epochs=2)


class Stream:
    """Batches whose number is not known."""

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return iter([separable(6, seed) for seed in range(3)])


class Images(IterableDataset[tuple[Tensor, Tensor]]):
    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return zip(*separable(18, 0), strict=True)


@pytest.mark.parametrize("batches", [Stream(), DataLoader(Images(), batch_size=6)], ids=["own", "torch"])
def test_terms_that_change_need_batches_with_a_length(batches: Any) -> None:
    recorder = Recorder()
    (record,) = train(
        Distiller(linear(0), [knowing], classes=3, size=4), batches, epochs=1, callbacks=[recorder]
    )
    assert record["kd"] > 0
    assert recorder.seen[0] == ("start", 0)
    assert recorder.seen[-1] == ("end", 1)
    changing = {"classes": 3, "size": 4, "method": "dkd"}
    error = refusal(train, Distiller(linear(0), [knowing], **changing), batches, epochs=1)
    assert "objective.dkd.warmup" in error.rule
    assert "steps=" in str(error.fix)
    first, second = train(Distiller(linear(0), [knowing], steps=6, **changing), batches, epochs=2)
    assert first["dkd"] > 0
    assert second["dkd"] > 0
    assert train(Distiller(linear(0), [knowing], **changing), [*Stream()], epochs=2)[-1]["dkd"] > 0


def test_an_optimizer_without_the_projections_is_refused() -> None:
    import timm

    student, teacher = (timm.create_model("cifar_resnet8", num_classes=3) for _ in range(2))
    distiller = Distiller(student, [teacher], classes=3, size=8, method="embed")
    with pytest.raises(ConfigError, match="all parameters of the distiller"):
        train(distiller, [], epochs=1, optimizer=torch.optim.SGD(student.parameters(), lr=0.1))


def test_a_loss_that_is_not_finite_ends_the_training_before_the_step() -> None:
    student = linear(0)
    before = {name: tensor.clone() for name, tensor in student.state_dict().items()}
    pixels_B3HW, labels_B = separable(6, 0)
    distiller = Distiller(student, [knowing], classes=3, size=4)
    with pytest.raises(NonFiniteError, match="at step 0"):
        train(distiller, [(pixels_B3HW * float("inf"), labels_B)], epochs=1)
    assert all(torch.equal(tensor, before[name]) for name, tensor in student.state_dict().items())


@pytest.mark.parametrize("epochs", [0, -1])
def test_a_training_has_epochs(epochs: int) -> None:
    with pytest.raises(ConfigError, match="at least one epoch"):
        train(Distiller(linear(0), [knowing], classes=3, size=4), [], epochs=epochs)


def test_settings_and_batches_are_refused_together() -> None:
    config = richkd.load_config(None, {"data.path": ".", "student.name": "cifar_resnet8"})
    with pytest.raises(ConfigError, match="opens its own data"):
        richkd.distill(config, [separable(6, 0)])  # type: ignore[call-overload]


def test_a_module_needs_batches() -> None:
    with pytest.raises(ConfigError, match="needs batches to learn from"):
        richkd.distill(linear(0), teachers=[knowing], classes=3, size=4, epochs=1)  # type: ignore[call-overload]
