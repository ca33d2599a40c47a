"""Live progress: a bar for each epoch on a terminal, plain lines in a log."""

from __future__ import annotations

import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Progress as RichProgress
from torch import Tensor

# Reading a loss waits for the device, so the bar's figures are refreshed no more often than this.
REFRESH_SECONDS = 0.5


class Progress:
    """Shows how a run goes; the loop tells it of each step and each epoch."""

    def __init__(self, *, quiet: bool = False) -> None:
        self.console = Console(quiet=quiet, highlight=False)
        self._bar = RichProgress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed}/{task.total}"),
            TextColumn("{task.fields[speed]}"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[losses]}"),
            console=self.console,
            transient=True,
            disable=quiet or not self.console.is_terminal,
        )
        self._task: TaskID | None = None
        self._title, self._began, self._images, self._refreshed = "", 0.0, 0, 0.0
        self._epochs_left = 0

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()

    def log(self, message: str) -> None:
        self.console.print(message, markup=False, soft_wrap=True)

    def start_epoch(self, epoch: int, epochs: int, steps: int, done: int) -> None:
        self._title, self._epochs_left = f"epoch {epoch + 1}/{epochs}", epochs - epoch - 1
        self._began, self._images = time.perf_counter(), 0
        if self._task is not None:
            self._bar.remove_task(self._task)
        self._task = self._bar.add_task(self._title, total=steps, completed=done, speed="", losses="")

    def advance(self, images: int, means: Mapping[str, Tensor]) -> None:
        assert self._task is not None
        self._images += images
        now = time.perf_counter()
        if self._bar.disable or now - self._refreshed < REFRESH_SECONDS:
            self._bar.advance(self._task)
            return
        self._refreshed = now
        self._bar.update(
            self._task,
            advance=1,
            speed=f"{self._images / (now - self._began):,.0f} images/s",
            losses="  ".join(f"{name} {float(value):.3f}" for name, value in means.items()),
        )

    def end_epoch(self, record: Mapping[str, Any]) -> dict[str, float]:
        """Print the epoch's line; returns its seconds and speed."""
        seconds = time.perf_counter() - self._began
        speed = self._images / seconds
        left = seconds * self._epochs_left
        parts = [
            f"{name.removeprefix('train/')} {value:.4f}" for name, value in record.items() if "train/" in name
        ]
        if "val/top1" in record:
            parts.append(f"val {record['val/top1']:.2%}")
        parts += [f"{speed:,.0f} images/s", f"{_clock(left)} left"]
        self.log(f"{self._title}  " + "  ".join(parts))
        return {"seconds": round(seconds, 3), "images_per_second": round(speed, 1)}

    def say_summary(self, summary: Mapping[str, Any]) -> None:
        for name, figures in summary["splits"].items():
            self.log(
                f"{name}: top-1 {figures['top1']:.2%}  NLL {figures['nll']:.4f}  ECE {figures['ece']:.4f}"
                f"  ({figures['n']:,} images)"
            )
        self.log(f"student: {summary['student_folder']} ({summary['seconds']:,} s)")


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
