"""What a user's code can do while a student is trained."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor


class Callback:
    """Four moments of a training; override those that matter.

    The same object serves ``richkd.distill`` with settings and with a module of the user's. Values of losses
    are tensors on the device: reading one waits for it.

    Example:
        >>> class Print(Callback):
        ...     def on_epoch(self, epoch, record):
        ...         print(epoch, record["kd"])
        >>> Print().on_epoch(0, {"kd": 0.5})
        0 0.5
    """

    def on_start(self, steps: int) -> None:
        """Training begins or goes on; ``steps`` is the number of all optimizer steps."""

    def on_step(self, step: int, losses: Mapping[str, Tensor]) -> None:
        """An optimizer step is done, the first one is 1; ``losses`` are the weighted terms of its batch."""

    def on_epoch(self, epoch: int, record: Mapping[str, Any]) -> None:
        """An epoch is done, the first one is 0.

        Args:
            epoch: its number.
            record: means of the losses, and the accuracy. For a run from settings, the epoch's line of
                ``metrics.jsonl``, in which losses are named as ``train/kd``.
        """

    def on_end(self, result: Any) -> None:
        """Training has ended; ``result`` is what ``richkd.distill`` returns."""
