"""Batch normalization over the images of all processes, on any device, with exact gradients.

The same statistics as those of one process with the whole batch: each process sends the mean, the sum of
squared deviations and the number of its values, and they are combined in float64 (Chan, Golub and LeVeque
1983). PyTorch's `SyncBatchNorm` is a class of its own and runs on some devices only.
"""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from richkd.core.numerics import at_least_fp32
from richkd.core.processes import world
from richkd.data.shares import Share


def joint_batch_norm(
    x: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    momentum: float,
    eps: float,
    share: Share,
) -> Tensor:
    """`torch.nn.functional.batch_norm` in training, with the statistics of the images of all processes.

    Running statistics are updated in place, and are the same in all processes. Gradients of weight and bias
    are those of this process's images.

    Args:
        x: input (B, channels, …) of this process.
        momentum: share of the new statistics in the running ones.
        share: which images of the batch these are. A stand-in has no part in the statistics.

    Raises:
        ValueError: one value per channel, as for PyTorch's function.

    Example:
        >>> from richkd.data.shares import shares_of
        >>> (share,) = shares_of(torch.arange(1), parts=1, rank=0, world=1)
        >>> try:
        ...     joint_batch_norm(torch.ones(1, 3), None, None, None, None, 0.1, 1e-5, share)
        ... except ValueError as error:
        ...     print(error)
        Expected more than 1 value per channel when training, got input size (1, 3)
    """
    dims = [dim for dim in range(x.ndim) if dim != 1]
    # Known without asking the other processes, so that no step waits for the device.
    count = x.numel() // x.shape[1] // share.computed * len(share.index_P)
    if count < 2:
        raise ValueError(
            f"Expected more than 1 value per channel when training, got input size {tuple(x.shape)}"
        )
    mean_C, squares_C = _joined(at_least_fp32(x.detach()), dims, counts=share.count > 0)
    if running_mean is not None and running_var is not None:
        running_mean.lerp_(mean_C.to(running_mean), momentum)
        running_var.lerp_((squares_C / (count - 1)).to(running_var), momentum)
    kind = at_least_fp32(x).dtype
    statistics = (mean_C.to(kind), (squares_C / count).to(kind))
    result = _Normalize.apply(x, weight, bias, *statistics, eps, count, share.count > 0)
    return cast(Tensor, result)


def _joined(x: Tensor, dims: list[int], *, counts: bool) -> tuple[Tensor, Tensor]:
    """Mean and sum of squared deviations of each channel over all processes, in float64."""
    channels, values = x.shape[1], x.numel() // x.shape[1]
    local = x.new_zeros(2 * channels + 1, dtype=torch.float64)
    if counts:
        var_C, mean_C = torch.var_mean(x, dims, correction=0)
        local[:channels], local[channels:-1], local[-1] = mean_C, var_C.double() * values, values
    received = [torch.empty_like(local) for _ in range(world())]
    dist.all_gather(received, local)
    all_WX = torch.stack(received)
    counts_W1, means_WC = all_WX[:, -1:], all_WX[:, :channels]
    mean_C = (counts_W1 * means_WC).sum(dim=0) / counts_W1.sum()
    squares_C = (all_WX[:, channels:-1] + counts_W1 * (means_WC - mean_C).square()).sum(dim=0)
    return mean_C, squares_C


class _Normalize(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        mean_C: Tensor,
        var_C: Tensor,
        eps: float,
        count: int,
        counts: bool,
    ) -> Tensor:
        ctx.save_for_backward(x, weight, mean_C, (var_C + eps).rsqrt())
        ctx.count, ctx.counts, ctx.has_bias = count, counts, bias is not None
        # The function that a single process uses, so that activations have its rounding.
        return F.batch_norm(x, mean_C, var_C, weight, bias, training=False, eps=eps)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        x, weight, mean_C, scale_C = ctx.saved_tensors
        gradient = at_least_fp32(gradients[0])
        dims = [dim for dim in range(x.ndim) if dim != 1]
        unit = (at_least_fp32(x) - _per_channel(mean_C, x)) * _per_channel(scale_C, x)
        sum_C, along_C = gradient.sum(dims), (gradient * unit).sum(dims)
        sums = torch.cat([sum_C, along_C])
        if not ctx.counts:
            sums = torch.zeros_like(sums)
        dist.all_reduce(sums)
        if ctx.counts:  # a stand-in has no part in the statistics
            all_C, all_along_C = (sums / ctx.count).chunk(2)
            through = gradient - _per_channel(all_C, x) - unit * _per_channel(all_along_C, x)
        else:
            through = gradient
        factor_C = scale_C if weight is None else scale_C * weight
        return (
            (through * _per_channel(factor_C, x)).to(x.dtype),
            None if weight is None else along_C.to(weight.dtype),
            sum_C if ctx.has_bias else None,
            *[None] * 5,
        )


def _per_channel(values_C: Tensor, x: Tensor) -> Tensor:
    return values_C.view(1, -1, *[1] * (x.ndim - 2))
