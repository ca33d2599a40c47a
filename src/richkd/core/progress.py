"""Progress of a training run: a live bar per epoch on a terminal, one line per epoch otherwise."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self, TextIO, cast

from rich.progress import BarColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress
from torch import Tensor

from richkd.core.output import LastingStream
from richkd.core.terminal import Terminal
from richkd.core.visible import visible
from richkd.core.waiting import MOST, Schedule, clock

# Reading a loss waits for the device, so the losses of the bar are not updated more often than this.
REFRESH_SECONDS = 0.5


class Progress:
    """Prints the progress of a training run. If standard output is closed meanwhile, the run goes on.

    Use it as a context manager. The training loop calls `start_epoch` and `end_epoch` once per epoch and
    `advance` once per step.

    Args:
        quiet: print nothing.

    Example:
        >>> with Progress(quiet=True) as progress:
        ...     progress.start_epoch(0, epochs=1, steps=2, done=0)
        ...     progress.advance(64, {"ce": Tensor([1.5])})
        ...     sorted(progress.end_epoch({"train/ce": 1.5}))
        ['images_per_second', 'seconds']
    """

    def __init__(self, *, quiet: bool = False) -> None:
        self.console = Terminal(file=cast(TextIO, LastingStream(sys.stdout)), quiet=quiet)
        self._bar = RichProgress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.completed}/{task.total}"),
            TextColumn("{task.fields[speed]}"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[losses]}", markup=False),
            console=self.console,
            transient=True,
            disable=quiet or not self.console.is_terminal,
        )
        self._task: TaskID | None = None
        self._title, self._began, self._images, self._refreshed = "", 0.0, 0, 0.0
        # Share of the epoch that this session does: less than 1 if the run was resumed within the epoch.
        self._share = 1.0
        self._epochs_left = 0
        # In a log, the first epoch says early that it is under way.
        self._lines: Schedule | None = None

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def log(self, message: str) -> None:
        """Print one line above the bar.

        Example:
            >>> Progress(quiet=True).log("not printed")
        """
        self.console.print(message, soft_wrap=True)

    def start_epoch(self, epoch: int, epochs: int, steps: int, done: int) -> None:
        """Start the bar of an epoch.

        Args:
            epoch: index of the epoch, counted from 0.
            epochs: number of epochs of the run.
            steps: number of steps of the epoch.
            done: steps of this epoch that were done before the run was resumed.
        """
        self._title, self._epochs_left = f"epoch {epoch + 1}/{epochs}", epochs - epoch - 1
        self._began, self._images = time.perf_counter(), 0
        self._share = (steps - done) / max(steps, 1) or 1.0
        self._lines = Schedule() if self._lines is None else Schedule(first=MOST)
        if self._task is not None:
            self._bar.remove_task(self._task)
        self._task = self._bar.add_task(self._title, total=steps, completed=done, speed="", losses="")

    def advance(self, images: int, means: Mapping[str, Tensor]) -> None:
        """Move the bar by one step.

        Args:
            images: number of images of the step, over all processes.
            means: mean of each loss term in this epoch, shown at the end of the bar.
        """
        assert self._task is not None
        self._images += images
        now = time.perf_counter()
        if self._bar.disable or now - self._refreshed < REFRESH_SECONDS:
            self._bar.advance(self._task)
            self._log_steps(self._images / max(now - self._began, 1e-9))
            return
        self._refreshed = now
        self._bar.update(
            self._task,
            advance=1,
            speed=f"{self._images / (now - self._began):,.0f} images/s",
            losses="  ".join(f"{visible(name)} {float(value):.3f}" for name, value in means.items()),
        )

    def _log_steps(self, speed: float) -> None:
        """In a log, print a line within an epoch that takes long."""
        task = self._bar.tasks[-1]
        assert self._lines is not None
        assert task.total is not None
        if self.console.is_terminal or task.completed >= task.total or not self._lines.due():
            return
        self.log(f"{self._title}  step {task.completed:,.0f}/{task.total:,.0f}  {speed:,.0f} images/s")

    def end_epoch(self, record: Mapping[str, Any]) -> dict[str, float]:
        """Print the losses, the validation accuracy and the speed of the epoch that ends.

        Args:
            record: metrics of the epoch, such as ``train/ce`` and ``val/top1``.

        Returns:
            ``seconds`` of the whole epoch and ``images_per_second``. If the run was resumed within the epoch,
            the steps before are assumed to have taken as long as those after.
        """
        here = time.perf_counter() - self._began
        speed, seconds = self._images / here, here / self._share
        left = seconds * self._epochs_left
        parts = [
            f"{name.removeprefix('train/')} {value:.4f}" for name, value in record.items() if "train/" in name
        ]
        if "val/top1" in record:
            parts.append(f"val top-1 {record['val/top1']:.2%}")
        parts += [f"{speed:,.0f} images/s", f"{clock(left)} left"]
        self.log(f"{self._title}  " + "  ".join(parts))
        return {"seconds": round(seconds, 3), "images_per_second": round(speed, 1)}

    def log_summary(self, summary: Mapping[str, Any]) -> None:
        """Print the metrics of each split, the student's folder and the time of a finished run.

        Args:
            summary: content of ``summary.json``.
        """
        for name, figures in summary["splits"].items():
            self.log(
                f"{name}: top-1 {figures['top1']:.2%}  NLL {figures['nll']:.4f}  ECE {figures['ece']:.4f}"
                f"  ({figures['n']:,} images)"
            )
        for target, kinds in summary.get("target_entropy_nats", {}).items():
            for kind, entropy in kinds.items():
                teacher = "" if entropy["teacher"] is None else f", vision teacher {entropy['teacher']:.4g}"
                self.log(
                    f"entropy of target {target}, {kind} images: {entropy['after']:.4g} nats, before the "
                    f"factor {entropy['before']:.4g}{teacher} (temperature {entropy['temperature']:g}, "
                    f"{entropy['views']:,} training views)"
                )
        self.log(f"student: {summary['student_folder']} ({summary['seconds']:,} s)")
