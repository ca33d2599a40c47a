"""What teachers of folds cost: images and minutes, stated before the first of them is trained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from richkd.config.schema import Config
from richkd.core.device import pick_device
from richkd.core.types import UNLABELED
from richkd.core.visible import counted
from richkd.data.order import TrainingOrder
from richkd.data.split import Data
from richkd.models.speed import seconds_of_step
from richkd.pipeline.assemble import build_student
from richkd.training.run_folder import RunFolder, read_lines


@dataclass(frozen=True)
class FoldCost:
    """The cost of training one teacher per fold.

    Attributes:
        left_out: number of images that each teacher is trained without.
        images: number of images that each teacher sees in an epoch.
        epochs: epochs of each teacher.
        done: epochs of each teacher that are done.
        finished: number of teachers that are finished.
        full: number of images that the full teacher sees in its whole training.
        seconds: measured seconds per image; None if nothing could be measured.
        source: where the seconds were measured.

    Example:
        >>> cost = FoldCost((40, 40), (60, 60), 10, (10, 0), 1, 1000, 0.01, "in runs/teacher")
        >>> for line in cost.lines():
        ...     print(line)
        folds: 2 trainings, each without 40 images: 60 images × 10 epochs, 0.6 of the full training
        folds: together 1.2 × the full training; 1 of 2 is finished
        folds: about 0.1 of 0.2 minutes remain (10 ms per image in runs/teacher)
    """

    left_out: tuple[int, ...]
    images: tuple[int, ...]
    epochs: int
    done: tuple[int, ...]
    finished: int
    full: int
    seconds: float | None
    source: str

    def lines(self) -> list[str]:
        """The cost in three lines of text."""
        folds, totals = len(self.images), [images * self.epochs for images in self.images]
        rest = sum(i * (self.epochs - done) for i, done in zip(self.images, self.done, strict=True))
        each, together = totals[0] / self.full, sum(totals) / self.full
        verb = "is" if self.finished == 1 else "are"
        work = [
            f"folds: {folds} trainings, each without {_range(self.left_out)} images: {_range(self.images)} "
            f"images × {counted(self.epochs, 'epoch')}, {each:.2g} of the full training",
            f"folds: together {together:.2g} × the full training; {self.finished} of {folds} {verb} finished",
        ]
        if self.seconds is None:
            return [*work, "folds: the time is unknown, because a step could not be measured"]
        minutes, all_minutes = (_number(images * self.seconds / 60) for images in (rest, sum(totals)))
        per_image = f"{1000 * self.seconds:.2g} ms per image {self.source}"
        return [*work, f"folds: about {minutes} of {all_minutes} minutes remain ({per_image})"]


def cost_of(
    config: Config, folds: int, data: Data, full: tuple[Path, Config] | None, *, resume: bool
) -> FoldCost:
    """The cost of the teachers of folds.

    The seconds per image are those of the full teacher's epochs if it has the same network and views; else
    those of epochs of folds that are done; else a step of the network is measured, without reading images
    and validation.

    Args:
        config: the settings of every teacher, with the folder of all folds.
        data: the data set, without a fold that is left out.
        full: run folder and settings of the full teacher; None if there is none, so that a teacher with the
            same settings stands for it.
        resume: whether epochs that are done are kept.
    """
    labels_N = data.splits["train"].labels_N
    labeled, unlabeled = (int(kind_N.sum()) for kind_N in (labels_N != UNLABELED, labels_N == UNLABELED))
    left_out = [labeled // folds + (fold < labeled % folds) for fold in range(folds)]
    images = [images_of_epoch(config, labeled - count, unlabeled) for count in left_out]
    folders = [RunFolder(config.out / f"fold-{fold}") for fold in range(folds)]
    finished = [resume and folder.finished(config.train.epochs) is not None for folder in folders]
    done = [
        config.train.epochs if ended else _epochs_done(folder, config) * resume
        for folder, ended in zip(folders, finished, strict=True)
    ]
    full_config = full[1] if full else config
    whole = images_of_epoch(full_config, labeled, unlabeled) * full_config.train.epochs
    seconds, source = _seconds(config, data, full, folders if resume else ())
    return FoldCost(
        tuple(left_out),
        tuple(images),
        config.train.epochs,
        tuple(done),
        sum(finished),
        whole,
        seconds,
        source,
    )


def images_of_epoch(config: Config, labeled: int, unlabeled: int) -> int:
    """Number of images that a run sees in an epoch: those of all full batches.

    Example:
        >>> config = Config.model_validate({"data": {"path": "photos"}, "student": {"name": "resnet18"}})
        >>> images_of_epoch(config, labeled=200, unlabeled=0)
        192
    """
    settings, share = config.train, config.data.unlabeled_fraction
    order = TrainingOrder(
        labeled + unlabeled, settings.batch_size, settings.seed, unlabeled=unlabeled, share=share
    )
    return order.steps * order.images_of_step


def seconds_per_image(timing: Sequence[dict[str, Any]]) -> float | None:
    """Seconds per image over the epochs of ``timing.jsonl``, with validation; None if there are none.

    Example:
        >>> lines = [{"epoch": 0, "seconds": 3.0, "images_per_second": 100.0}]
        >>> seconds_per_image(lines)
        0.01
    """
    try:
        images = sum(line["seconds"] * line["images_per_second"] for line in timing)
        return float(sum(line["seconds"] for line in timing) / images)
    except (LookupError, TypeError, ZeroDivisionError):
        return None


def _epochs_done(folder: RunFolder, config: Config) -> int:
    return min(len(read_lines(folder.timing)), config.train.epochs - 1)


def _seconds(
    config: Config, data: Data, full: tuple[Path, Config] | None, folders: Sequence[RunFolder]
) -> tuple[float | None, str]:
    """Seconds per image, and where they were measured."""
    if full is not None and (config.student, config.augment) == (full[1].student, full[1].augment):
        measured = seconds_per_image(read_lines(RunFolder(full[0]).timing))
        if measured is not None:
            return measured, f"in {full[0]}"
    measured = seconds_per_image([line for folder in folders for line in read_lines(folder.timing)])
    if measured is not None:
        return measured, "in folds that began"
    size = max(2, config.train.batch_size // config.train.grad_accum_steps)
    device = pick_device(config.train.device)
    seconds = seconds_of_step(build_student(config, data), size, device, config.train.precision)
    return None if seconds is None else seconds / size, "in a step, without reading images and validation"


def _range(counts: Sequence[int]) -> str:
    low, high = min(counts), max(counts)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def _number(minutes: float) -> str:
    return f"{minutes:,.1f}" if minutes < 10 else f"{minutes:,.0f}"
