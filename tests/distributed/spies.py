"""What a process of a test counts, and where it is disturbed."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor

from richkd.core.errors import DataError
from richkd.core.types import Batch, LossTerms
from richkd.data import images
from richkd.pipeline.assemble import Parts
from richkd.teachers import predict
from richkd.training.task import Task
from richkd.training.trainer import Trainer

RANK = int(os.environ.get("RANK", "0"))


@contextmanager
def watching(wanted: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Count decoded, trained and evaluated images; do what ``wanted`` says.

    Args:
        wanted: ``{"nan": [rank, step]}`` makes a loss NaN, ``"kill"`` and ``"term"`` send this process a
            signal after a step, ``"unreadable"`` fails to read the images of a step.
    """
    seen = {"decoded": 0, "evaluated": 0, "trained": 0}
    batches = _unreadable(Parts.training_batches, wanted)
    with (
        patch.object(images, "decode_cell", _counted(images.decode_cell, seen)),
        patch.object(predict, "render", _evaluated(predict.render, seen)),
        patch.object(Trainer, "train_step", _disturbed(Trainer.train_step, wanted, seen)),
        patch.object(Task, "forward", _nan(Task.forward, wanted)),
        patch.object(Parts, "training_batches", batches),
    ):
        yield seen


def _counted(function: Any, seen: dict[str, Any]) -> Any:
    def counted(*args: Any, **kwargs: Any) -> Any:
        seen["decoded"] += 1
        return function(*args, **kwargs)

    return counted


def _evaluated(function: Any, seen: dict[str, Any]) -> Any:
    def render(pixels: Tensor, *args: Any) -> Any:
        seen["evaluated"] += len(pixels)
        return function(pixels, *args)

    return render


def _at(wanted: dict[str, Any], what: str, step: int) -> bool:
    return [RANK, step] in (wanted.get(what, []), *wanted.get(f"{what}s", []))


def _disturbed(function: Any, wanted: dict[str, Any], seen: dict[str, Any]) -> Any:
    def train_step(self: Trainer, batch: Batch) -> Any:
        seen["trained"] += sum(share.count for share in self.shares)
        if _at(wanted, "kill", self.step):
            os.kill(os.getpid(), signal.SIGKILL)
        if _at(wanted, "term", self.step):
            os.kill(os.getpid(), signal.SIGTERM)
        return function(self, batch)

    return train_step


def _nan(function: Any, wanted: dict[str, Any]) -> Any:
    def forward(
        self: Task, pixels: Tensor, targets: Any, batch: Batch, context: Any, *rest: Any
    ) -> LossTerms:
        if _at(wanted, "nan", context.step):
            pixels = torch.full_like(pixels, torch.nan)
        terms: LossTerms = function(self, pixels, targets, batch, context, *rest)
        return terms

    return forward


def _unreadable(function: Any, wanted: dict[str, Any]) -> Any:
    def training_batches(self: Parts, epoch: int, groups: list[Tensor]) -> Iterator[Batch]:
        for step, batch in enumerate(function(self, epoch, groups)):
            if _at(wanted, "unreadable", epoch * 4 + step):
                raise DataError("Image 7.png must be readable", got="a scratch", fix="replace the file.")
            yield batch

    return training_batches
