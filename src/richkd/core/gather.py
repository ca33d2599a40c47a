"""Rows of all processes as one tensor, through which gradients flow back to the process of each row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor

from richkd.core.processes import gather_rows, rank
from richkd.core.types import Batch, Output, Target


class _Gather(torch.autograd.Function):
    """Every process computes the same loss of all rows and minimizes its part of it, one of ``world``.

    So the gradient of the process's own rows is multiplied by ``world``; nothing is sent backwards.
    """

    @staticmethod
    def forward(ctx: Any, rows_BX: Tensor, sizes: Sequence[int]) -> Tensor:
        ctx.sizes, ctx.shape = sizes, rows_BX.shape
        return gather_rows(rows_BX, sizes)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        first, count = sum(ctx.sizes[: rank()]), ctx.sizes[rank()]
        gradient = gradients[0].new_zeros(ctx.shape)
        gradient[:count] = gradients[0][first : first + count] * len(ctx.sizes)
        return gradient, None


def gathered(rows_BX: Tensor, sizes: Sequence[int]) -> Tensor:
    """The rows of all processes in order, with gradients for ``1 / world`` of a loss of all of them.

    Args:
        rows_BX: rows of this process.
        sizes: number of rows of each process.

    Example:
        >>> gathered(torch.tensor([[1.0]]), [1]).tolist()
        [[1.0]]
    """
    if len(sizes) == 1:
        return rows_BX
    return cast(Tensor, _Gather.apply(rows_BX, sizes))


def gathered_output(output: Output, sizes: Sequence[int], *, maps: bool) -> Output:
    """A network's output for the images of all processes; without ``maps``, it has none.

    Example:
        >>> gathered_output(Output(torch.eye(2), torch.eye(2)), [2], maps=True).logits_BC.tolist()
        [[1.0, 0.0], [0.0, 1.0]]
    """
    return Output(
        gathered(output.logits_BC, sizes),
        gathered(output.feats_BF, sizes),
        tuple(gathered(map_BFHW, sizes) for map_BFHW in output.maps) if maps else (),
    )


def gathered_target(target: Target, sizes: Sequence[int], *, maps: bool) -> Target:
    """A target for the images of all processes.

    Example:
        >>> target = Target(torch.eye(2), (), ())
        >>> gathered_target(target, [2], maps=True).logits_BC.tolist()
        [[1.0, 0.0], [0.0, 1.0]]
    """
    return replace(
        target,
        logits_BC=gathered(target.logits_BC, sizes),
        teachers=tuple(gathered_output(teacher, sizes, maps=maps) for teacher in target.teachers),
        weight_B=None if target.weight_B is None else gathered(target.weight_B, sizes),
        logs=tuple(gathered(log_BC, sizes) for log_BC in target.logs),
    )


def gathered_batch(batch: Batch, index_P: Tensor, sizes: Sequence[int]) -> Batch:
    """Positions and labels of the images of all processes, without pixels.

    Args:
        batch: images of this process.
        index_P: positions of the images of all processes, which are known without sending them.

    Example:
        >>> batch = Batch("train", torch.tensor([3]), torch.zeros(1, 2, 2, 3), torch.tensor([1]))
        >>> gathered_batch(batch, batch.index_B, [1]).labels_B.tolist()
        [1]
    """
    labels_P = gathered(batch.labels_B, sizes)
    return Batch(batch.split, index_P, batch.pixels_BHWC.new_empty((len(index_P), 0, 0, 3)), labels_P)
