"""Add up gradients and numbers of all processes after the parts of a step."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn

from richkd.core.processes import world

# Bytes that are sent together. Few, large messages cost less, but their copies need memory.
BUCKET = 128 << 20


@dataclass
class Flags:
    """What processes tell each other in every step.

    Attributes:
        stop: a process was asked to stop.
        unreadable: a process cannot read the images of its next step.

    Example:
        >>> Flags(stop=True).numbers().tolist()
        [1.0, 0.0]
    """

    stop: bool = False
    unreadable: bool = False

    def numbers(self) -> Tensor:
        """The flags as numbers on the CPU."""
        return torch.tensor([float(self.stop), float(self.unreadable)])

    def take(self, sums: Tensor) -> None:
        """Set the flags of all processes from the sums of their numbers, on the CPU."""
        self.stop, self.unreadable = (value > 0 for value in sums.tolist())


def add_up(parameters: Iterable[nn.Parameter], numbers: Tensor, flags: Flags) -> Tensor:
    """Replace the gradients by their sums over all processes, and return the sums of the numbers.

    All processes do the same operations, so the same parameters have gradients in all of them. A parameter
    without a gradient is left alone.

    Args:
        parameters: parameters after the backward passes of a step.
        numbers: further numbers of this process, which are sent along.
        flags: flags of this process; they become those of any process.

    Example:
        >>> weight = nn.Parameter(torch.ones(1))
        >>> weight.grad = torch.ones(1)
        >>> add_up([weight], torch.tensor([2.0]), Flags()).tolist()
        [2.0]
    """
    if world() == 1:
        return numbers
    gradients = [p.grad for p in parameters if p.grad is not None]
    flag_numbers, on_cpu = flags.numbers(), numbers.device.type == "cpu"
    last = torch.cat([flag_numbers.to(numbers.dtype), numbers]) if on_cpu else numbers.clone()
    for bucket in _buckets([*gradients, last]):
        flat = torch.cat([tensor.reshape(-1) for tensor in bucket])
        dist.all_reduce(flat)
        pieces = torch.split(flat, [tensor.numel() for tensor in bucket])
        for tensor, piece in zip(bucket, pieces, strict=True):
            tensor.copy_(piece.view(tensor.shape))
    if on_cpu:
        flag_numbers, last = last[: len(flag_numbers)], last[len(flag_numbers) :]
    else:
        # Flags on the device could only be read by waiting for it.
        dist.all_reduce(flag_numbers)
    flags.take(flag_numbers)
    return last


def _buckets(tensors: list[Tensor]) -> Iterator[list[Tensor]]:
    """Groups of consecutive tensors of one type."""
    bucket: list[Tensor] = []
    for tensor in tensors:
        size = sum(t.numel() * t.element_size() for t in bucket)
        if bucket and (tensor.dtype != bucket[0].dtype or size >= BUCKET):
            yield bucket
            bucket = []
        bucket.append(tensor)
    if bucket:
        yield bucket


def same_everywhere(module: nn.Module) -> None:
    """Give all processes the weights and buffers of the first one.

    Example:
        >>> same_everywhere(nn.Linear(1, 1))
    """
    if world() == 1:
        return
    with torch.no_grad():
        for tensor in (*module.parameters(), *module.buffers()):
            whole = tensor.detach().contiguous()
            dist.broadcast(whole, src=0)
            tensor.copy_(whole)
