"""Detect losses that are NaN or infinite, and turn out-of-memory errors into advice."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from accelerate.utils.memory import should_reduce_batch_size
from torch import Tensor

from richkd.core.errors import DeviceMemoryError, NonFiniteError
from richkd.core.types import Batch, LossTerms
from richkd.data.split import Split
from richkd.training.batch_parts import part_sizes

# Reading a loss waits for the GPU; on a CPU it costs nothing.
STEPS_BETWEEN_READINGS = {"cpu": 1}
STEPS_BETWEEN_READINGS_ELSEWHERE = 50


@dataclass
class NonFiniteDetector:
    """Collects the loss terms of recent steps on the device and checks them together.

    Call `check` before a checkpoint is written, so that no checkpoint is written after a loss that is NaN or
    infinite.

    Attributes:
        split: the training split; its keys name the images in the error message.
        steps_in_epoch: optimizer steps in one epoch.
    """

    split: Split
    steps_in_epoch: int
    _unread: list[tuple[int, Tensor, list[str], Tensor]] = field(default_factory=list)

    def record(self, terms: LossTerms, index_B: Tensor, step: int) -> None:
        """Record the loss terms of a step; every few steps (every step on a CPU) they are checked.

        Args:
            terms: the loss terms of the step.
            index_B: positions of the step's images in the split.
            step: number of the optimizer step.

        Raises:
            NonFiniteError: see `check`.
        """
        values = torch.stack([value.detach().float() for value in terms.terms.values()])
        self._unread.append((step, index_B, list(terms.terms), values))
        kind = values.device.type
        if len(self._unread) >= STEPS_BETWEEN_READINGS.get(kind, STEPS_BETWEEN_READINGS_ELSEWHERE):
            self.check()

    def check(self) -> None:
        """Check all recorded loss terms that were not checked before.

        Raises:
            NonFiniteError: a loss is NaN or infinite; names the first such step, its terms and its images.
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
            "or check these images; the last checkpoint is older and valid.",
        )


def raise_with_batch_size_advice(
    error: RuntimeError, batch: Batch, parts: int, attempt: Callable[[Batch], None]
) -> None:
    """Turn an out-of-memory error into advice: the number of parts of a batch that fit in memory.

    ``attempt`` is called with smaller and smaller parts of the batch, each half as large as the last, until
    one fits. The function returns without an error if ``error`` is not an out-of-memory error.

    Args:
        error: the error of the step.
        batch: the whole batch of the step.
        parts: number of parts that the batch was already divided into.
        attempt: runs forward and backward pass of a part, and raises RuntimeError if it does not fit.

    Raises:
        DeviceMemoryError: names the setting to change.
        RuntimeError: ``attempt`` failed for another reason.

    Example:
        >>> batch = Batch("train", torch.arange(8), torch.zeros(8, 2, 2, 3), torch.zeros(8))
        >>> def attempt(part):
        ...     if len(part) > 2:
        ...         raise RuntimeError("CUDA out of memory. Tried to allocate 2 GiB.")
        >>> error = RuntimeError("CUDA out of memory. Tried to allocate 4 GiB.")
        >>> try:
        ...     raise_with_batch_size_advice(error, batch, 1, attempt)
        ... except DeviceMemoryError as raised:
        ...     print(raised.fix.partition(":")[0])
        add --train.grad_accum_steps 4
    """
    if not should_reduce_batch_size(error):
        return
    error.__traceback__ = None  # the frames of the traceback keep the activations in memory
    images = len(batch.labels_B)
    while 2 * parts <= images // 2:
        parts *= 2
        if min(part_sizes(images, parts)) < 2:  # batch norm needs two images
            continue
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
            fix=f"add --train.grad_accum_steps {parts}: parts of {size} images fit. The step stays the same, "
            "except that batch norm uses the statistics of each part. Or use a smaller --train.batch_size.",
        ) from error
    raise DeviceMemoryError(
        "Two images of a batch must fit in the device's memory",
        got=str(error).splitlines()[0],
        fix="use a smaller student or --student.size, --objective.contrastive.negatives queue, or a device "
        "with more memory.",
    ) from error
