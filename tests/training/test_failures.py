"""Losses that are no numbers are found late but never saved; exhausted memory ends in advice."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from richkd.core.errors import DeviceMemoryError, NonFiniteError
from richkd.core.types import Batch, LossTerms
from richkd.data.sources import open_data
from richkd.training.failures import NonFiniteDetector, raise_with_batch_size_advice
from richkd.training.run import distill
from richkd.training.task import Task
from tests.fixtures import World, refusal

# What PyTorch raises.
OUT_OF_MEMORY = "CUDA out of memory. Tried to allocate 2 GiB."


def terms(ce: float, kd: float, device: str = "cpu") -> LossTerms:
    return LossTerms({"ce": torch.tensor(ce, device=device), "kd": torch.tensor(kd, device=device)})


def test_the_first_bad_step_is_named_when_losses_are_read(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = world.config(tmp_path / "run")
    split = open_data(config.data, 0).splits["train"]
    watch = NonFiniteDetector(split, 4)
    watch.record(terms(1.0, 2.0), torch.tensor([0, 1]), 0)
    with pytest.raises(NonFiniteError, match=r"step 1 \(epoch 0\) in: kd"):
        watch.record(terms(1.0, math.nan), torch.tensor([0, 1]), 1)

    monkeypatch.setattr("richkd.training.failures.STEPS_BETWEEN_READINGS", {"cpu": 10})
    watch = NonFiniteDetector(split, 4)
    for step, loss in enumerate((1.0, 2.0, 3.0, 4.0, 5.0, math.inf, 7.0, math.nan)):
        watch.record(terms(loss, 1.0), torch.tensor([step, step + 1]), step)
    with pytest.raises(NonFiniteError, match=r"step 5 \(epoch 1\) in: ce") as caught:
        watch.check()
    assert split.key(5) in str(caught.value)
    assert split.key(7) not in str(caught.value)
    # A loss that was checked is not checked again.
    watch.check()


def test_a_run_that_reads_its_losses_late_saves_nothing_bad(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("richkd.training.failures.STEPS_BETWEEN_READINGS", {"cpu": 1000})
    config = world.config(tmp_path / "run", optim__lr=1e30)
    error = refusal(distill, config, quiet=True)
    assert isinstance(error, NonFiniteError)
    assert not (tmp_path / "run" / "checkpoints" / "last.ckpt").exists()


def fits(images: int, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A task that runs out of memory above so many images; returns the sizes it was asked for."""
    asked, forward = [], Task.forward

    def limited(self: Task, pixels: Tensor, *others: Any) -> LossTerms:
        asked.append(len(pixels))
        if len(pixels) > images:
            raise torch.OutOfMemoryError(OUT_OF_MEMORY)
        return forward(self, pixels, *others)

    monkeypatch.setattr(Task, "forward", limited)
    return asked


def test_exhausted_memory_names_the_setting_that_fits(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = fits(3, monkeypatch)
    config = world.config(tmp_path / "run", train__batch_size=12)
    error = refusal(distill, config, quiet=True)
    assert isinstance(error, DeviceMemoryError)
    assert asked == [12, 6, 4, 2]
    assert "12 images" in error.rule
    assert "Tried to allocate" in str(error.got)
    assert "--train.grad_accum_steps 6:" in str(error.fix)
    # The advice is right.
    distill(world.config(tmp_path / "again", train__batch_size=12, train__grad_accum_steps=6), quiet=True)
    assert asked[4:10] == [2, 2, 2, 2, 2, 2]


def test_two_images_that_do_not_fit_end_the_search(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = fits(1, monkeypatch)
    error = refusal(distill, world.config(tmp_path / "run", train__batch_size=12), quiet=True)
    assert isinstance(error, DeviceMemoryError)
    assert asked == [12, 6, 4, 2]
    assert "smaller student" in str(error.fix)
    assert "--objective.contrastive.negatives queue" in str(error.fix)


def test_other_errors_pass_by() -> None:
    batch = Batch("train", torch.arange(4), torch.zeros(4, 2, 2, 3, dtype=torch.uint8), torch.zeros(4))

    def attempt(part: Batch) -> None:
        raise AssertionError("must not be tried")

    raise_with_batch_size_advice(RuntimeError("shapes do not match"), batch, 1, attempt)


def test_another_error_of_a_smaller_part_is_not_hidden() -> None:
    batch = Batch("train", torch.arange(4), torch.zeros(4, 2, 2, 3, dtype=torch.uint8), torch.zeros(4))

    def attempt(part: Batch) -> None:
        raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes"):
        raise_with_batch_size_advice(torch.OutOfMemoryError(OUT_OF_MEMORY), batch, 1, attempt)
