"""What stops a run that goes wrong: losses that are no numbers, and memory that does not suffice."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from accelerate.utils.memory import should_reduce_batch_size
from torch import Tensor

from richkd.core.errors import DeviceMemoryError, NonFiniteError
from richkd.core.types import Batch, LossTerms
from richkd.data.split import Split

# Reading a loss waits for a GPU, and costs nothing on a CPU.
STEPS_BETWEEN_READINGS = {"cpu": 1}
STEPS_BETWEEN_READINGS_ELSEWHERE = 50


@dataclass
class NonFiniteDetector:
    """Remembers the loss terms of the latest steps on the device, and reads them together.

    A loss that was no number shows at the latest before the next checkpoint, so that none is written
    after it: call :meth:`check` there.
    """

    split: Split
    steps_in_epoch: int
    _unread: list[tuple[int, Tensor, list[str], Tensor]] = field(default_factory=list)

    def record(self, terms: LossTerms, index_B: Tensor, step: int) -> None:
        """Note a step's loss terms.

        Raises:
            NonFiniteError: as :meth:`check`.
        """
        values = torch.stack([value.detach().float() for value in terms.terms.values()])
        self._unread.append((step, index_B, list(terms.terms), values))
        kind = values.device.type
        if len(self._unread) >= STEPS_BETWEEN_READINGS.get(kind, STEPS_BETWEEN_READINGS_ELSEWHERE):
            self.check()

    def check(self) -> None:
        """Look at what was noted.

        Raises:
            NonFiniteError: naming the first step with a loss that is NaN or infinite, its terms and images.
        """
        unread, self._unread = self._unread, []
        if not unread or bool(torch.cat([values for *_, values in unread]).isfinite().all()):
            return
        step, index_B, names, values = next(entry for entry in unread if not entry[3].isfinite().all())
        bad = [name for name, finite in zip(names, values.isfinite().tolist(), strict=True) if not finite]
        images = [self.split.key(int(i)) for i in index_B[:5]]
        raise NonFiniteError(
            f"The loss became NaN or infinite at step {step} (epoch {step // self.steps_in_epoch})"
            f" in: {', '.join(bad)}",
            got=f"images {', '.join(images)} and {max(0, len(index_B) - 5)} more",
            fix="lower --optim.lr, add --optim.warmup_epochs 1 or --optim.max_grad_norm 5, "
            "or look at these images; the last checkpoint is from before and intact.",
        )


def raise_with_batch_size_advice(
    error: RuntimeError, batch: Batch, parts: int, attempt: Callable[[Batch], None]
) -> None:
    """Turn an exhausted memory into advice: into how many parts a batch must be cut to fit.

    Parts are tried by ``attempt``, each half as large as the last. Other errors pass by.

    Raises:
        DeviceMemoryError: with the setting to change.
    """
    if not should_reduce_batch_size(error):
        return
    error.__traceback__ = None  # its frames hold the activations that filled the memory
    images = len(batch.labels_B)
    while 2 * parts <= images // 2:  # batch norm needs two images
        parts *= 2
        torch.cuda.empty_cache()
        size = -(-images // parts)
        try:
            attempt(batch.at(torch.arange(size)))
        except RuntimeError as smaller:
            if not should_reduce_batch_size(smaller):
                raise
            continue
        raise DeviceMemoryError(
            f"A step's batch of {images} images must fit in the device's memory",
            got=str(error).splitlines()[0],
            fix=f"add --train.grad_accum_steps {parts}: parts of {size} images fit, and the step stays the "
            "same but for batch norm, which sees parts. Or use a smaller --train.batch_size.",
        ) from error
    raise DeviceMemoryError(
        "Two images of a batch must fit in the device's memory",
        got=str(error).splitlines()[0],
        fix="use a smaller student or --student.size, --objective.contrastive.negatives queue, or a larger device.",
    ) from error
