"""Detect losses and outputs of teachers that are not finite, and turn out-of-memory errors into advice."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

import torch
from accelerate.utils.memory import should_reduce_batch_size
from torch import Tensor

from richkd.core.errors import DeviceMemoryError, NonFiniteError
from richkd.core.processes import gather_objects, raise_first, rank, world
from richkd.core.types import Batch, LossTerms, Output
from richkd.data.shares import part_sizes
from richkd.data.split import Split

SMALLER_STEPS = "lower --optim.lr, add --optim.warmup_epochs 1 or --optim.max_grad_norm 5"
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
        checkpoint: the last checkpoint of the run, which may not exist yet.
    """

    split: Split
    steps_in_epoch: int
    checkpoint: Path | None = None
    _unread: list[_Recorded] = field(default_factory=list)
    _sums: list[Tensor] = field(default_factory=list)

    def record(
        self,
        terms: LossTerms,
        index_B: Tensor,
        step: int,
        teachers: Mapping[str, Output] = MappingProxyType({}),
    ) -> None:
        """Record the loss terms of a step; every few steps (every step on a CPU) they are checked.

        Args:
            terms: the loss terms of the step.
            index_B: positions of the step's images in the split.
            step: number of the optimizer step.
            teachers: outputs of each teacher for these images, by what it is called.

        Raises:
            NonFiniteError: see `check`.
        """
        values = torch.stack([value.detach().float() for value in terms.terms.values()])
        logits = {name: output.logits_BC.isfinite().all() for name, output in teachers.items()}
        feats = {name: output.feats_BF.isfinite().all() for name, output in teachers.items()}
        self._unread.append(_Recorded(step, index_B, list(terms.terms), values, logits, feats))
        if world() == 1:
            self._check_if_due(values.device)

    def numbers(self, step: int) -> Tensor:
        """The numbers that were recorded for a step; they are not finite if a loss is not."""
        return torch.cat([one.numbers() for one in self._unread if one.step == step])

    def add_sums(self, numbers: Tensor) -> None:
        """Record the sums of `numbers` over all processes, by which these agree whether a loss was finite.

        Raises:
            NonFiniteError: see `check`.
        """
        self._sums.append(numbers)
        self._check_if_due(numbers.device)

    def _check_if_due(self, device: torch.device) -> None:
        steps = len(self._sums) if world() > 1 else len(self._unread)
        if steps >= STEPS_BETWEEN_READINGS.get(device.type, STEPS_BETWEEN_READINGS_ELSEWHERE):
            self.check()

    def check(self) -> None:
        """Check all recorded loss terms, and the teachers' outputs, that were not checked before.

        Raises:
            NonFiniteError: a loss or a teacher's logit is NaN or infinite; names the first such step, the
                teacher or else the loss terms, and the images. All processes of a run raise the same error.
        """
        unread, self._unread = self._unread, []
        numbers, self._sums = self._sums if world() > 1 else [one.numbers() for one in unread], []
        if not numbers or bool(torch.cat(numbers).isfinite().all()):
            return
        errors = gather_objects(self._error_of(unread))
        # What compares images, or normalizes over them, becomes NaN in all processes; a teacher does in one.
        raise_first([error for error, of_teacher in errors if of_teacher])
        raise_first([error for error, _ in errors])
        raise NonFiniteError(
            "The sum of the losses of all processes became infinite", got="finite losses", fix=SMALLER_STEPS
        )

    def _error_of(self, unread: list[_Recorded]) -> tuple[NonFiniteError | None, bool]:
        """The error of this process, and whether it is that of a teacher; none if all numbers are finite."""
        first = next((one for one in unread if not bool(one.numbers().isfinite().all())), None)
        if first is None:
            return None, False
        step = f"step {first.step} (epoch {first.step // self.steps_in_epoch})"
        images = ", ".join(self.split.key(int(i)) for i in first.index_B[:5])
        got = f"images {images} and {max(0, len(first.index_B) - 5)} more"
        got += f", of process {rank()} of {world()}" if world() > 1 else ""
        if names := first.bad_teachers():
            error = NonFiniteError(
                f"The outputs of {', '.join(names)} must be finite, but are not at {step}",
                got=got,
                fix="check the teacher, whose weights are finite: if its outputs are larger than 65,504, "
                "divide them by a constant; else try --train.teacher_precision fp32"
                f"{valid_checkpoint(self.checkpoint)}.",
            )
            return error, True
        error = NonFiniteError(
            f"The loss became NaN or infinite at {step} in: {', '.join(first.bad_terms())}",
            got=got,
            fix=f"{SMALLER_STEPS}, or check these images{valid_checkpoint(self.checkpoint)}.",
        )
        return error, False


@dataclass
class _Recorded:
    """The numbers of a step, on the device."""

    step: int
    index_B: Tensor
    names: list[str]
    values: Tensor
    logits: dict[str, Tensor]
    feats: dict[str, Tensor]

    def numbers(self) -> Tensor:
        """The loss terms, and NaN for each teacher whose logits are not finite."""
        flags = [torch.where(finite, 0.0, torch.nan)[None] for finite in self.logits.values()]
        return torch.cat([self.values, *(flag.to(self.values) for flag in flags)])

    def bad_teachers(self) -> list[str]:
        """Teachers whose outputs are not finite. Features count only if they made the loss non-finite."""
        kinds = [self.logits] if not self.bad_terms() else [self.logits, self.feats]
        return [name for name in self.logits if not all(bool(kind[name]) for kind in kinds)]

    def bad_terms(self) -> list[str]:
        """Names of the loss terms that are not finite."""
        finite = self.values.isfinite().tolist()
        return [name for name, good in zip(self.names, finite, strict=True) if not good]


def valid_checkpoint(checkpoint: Path | None) -> str:
    """The part of an advice on the last checkpoint; empty if there is none.

    Example:
        >>> valid_checkpoint(Path("nowhere/last.ckpt"))
        ''
    """
    return "; the last checkpoint is older and valid" if checkpoint and checkpoint.exists() else ""


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
    # Parts have two images or more.
    while parts < images // 2:
        parts = min(2 * parts, images // 2)
        torch.cuda.empty_cache()
        size = max(part_sizes(images, parts))
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
