"""Compute a share of a batch as if the whole batch were there.

Two things in a network depend on more than single images: batch normalization, whose statistics are those of
all images, and random numbers such as the masks of dropout, of which each image has its own. `JointBatch`
replaces both while a network runs. It changes no module, so what is saved is the network itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import TorchFunctionMode

from richkd.data.shares import Share
from richkd.models.joint_norm import joint_batch_norm

Call = Callable[..., Any]

MASKED: set[Call] = {F.dropout, F.dropout1d, F.dropout2d, F.dropout3d, torch.dropout}
# Functions of the batch that also draw numbers, but do not only multiply by them.
DRAWING: set[Call] = {F.alpha_dropout, F.feature_alpha_dropout, F.gumbel_softmax}
DRAWING |= {torch.bernoulli, torch.Tensor.bernoulli}
LIKE: set[Call] = {torch.rand_like, torch.randn_like, torch.randint_like}
SHAPED: set[Call] = {torch.rand, torch.randn}
IN_PLACE: set[Call] = {
    getattr(torch.Tensor, f"{name}_")
    for name in (
        "bernoulli",
        "uniform",
        "normal",
        "random",
        "exponential",
        "log_normal",
        "geometric",
        "cauchy",
    )
}


class JointBatch(TorchFunctionMode):
    """Context in which a network computes its share of a batch.

    Random numbers whose first dimension is that of the batch are drawn for the images of the whole step, and
    the share's rows of them are used. So the numbers of an image are a function of the generator and of the
    image's place in the step. The generator must be in the same state in all processes, and before each part
    of the step.

    Args:
        share: the share of the step.

    Example:
        >>> from richkd.data.shares import shares_of
        >>> ones = torch.ones(6, 1)
        >>> with torch.random.fork_rng(devices=[]):
        ...     _ = torch.manual_seed(0)
        ...     whole = F.dropout(ones)
        ...     halves = []
        ...     for share in shares_of(torch.arange(6), parts=2):
        ...         _ = torch.manual_seed(0)
        ...         with JointBatch(share):
        ...             halves.append(F.dropout(ones[: share.count]))
        >>> torch.equal(torch.cat(halves), whole)
        True
    """

    def __init__(self, share: Share) -> None:
        super().__init__()
        self.share = share
        last = share.of_step - share.computed
        self.first, self.rows, self.total = (
            min(share.start + share.first, last),
            share.computed,
            share.of_step,
        )

    def __torch_function__(
        self,
        func: Call,
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        replaced = REPLACED.get(func)
        if replaced is None:
            return func(*args, **(kwargs or {}))
        return replaced(self, func, *args, **(kwargs or {}))

    def times(self, shape: Iterable[int]) -> int:
        """Rows of a tensor for each image; 0 if its first dimension is not that of the batch."""
        first = next(iter(shape), 0)
        return first // self.rows if first and first % self.rows == 0 else 0

    def whole(self, x: Tensor) -> Tensor:
        """A tensor of zeros for all images of the step, with the rows of ``x`` in their places."""
        times = self.times(x.shape)
        before, behind = self.first * times, (self.total - self.first - self.rows) * times
        parts = [x.new_zeros((before, *x.shape[1:])), x, x.new_zeros((behind, *x.shape[1:]))]
        # Numbers are drawn in the order of memory.
        return self.empty(x).copy_(torch.cat(parts))

    def empty(self, x: Tensor) -> Tensor:
        """An uninitialized tensor for all images of the step, in the memory order of ``x``."""
        shape = (self.times(x.shape) * self.total, *x.shape[1:])
        strides = x.stride()
        layout = sorted(range(x.ndim), key=lambda dim: (-strides[dim], dim))
        return torch.empty_permuted(shape, layout, dtype=x.dtype, device=x.device)

    def local(self, whole: Tensor) -> Tensor:
        """The rows of this share, copied, so that those of other images take no memory."""
        times = len(whole) // self.total
        return whole[self.first * times : (self.first + self.rows) * times].clone()


def _batch_norm(
    joint: JointBatch,
    func: Call,
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    if not (training and joint.share.divided):
        result: Tensor = func(input, running_mean, running_var, weight, bias, training, momentum, eps)
        return result
    return joint_batch_norm(input, running_mean, running_var, weight, bias, momentum, eps, joint.share)


def _masked(
    joint: JointBatch, func: Call, input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False
) -> Tensor:
    """Dropout multiplies by a mask, which is drawn for the whole step."""
    times = joint.times(input.shape)
    if not training or not p or not times:
        result: Tensor = func(input, p, training)
        return result
    mask = joint.local(func(joint.empty(input).fill_(1), p, True))
    return input.mul_(mask) if inplace else input * mask


def _drawing(joint: JointBatch, func: Call, input: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    if not joint.times(input.shape):
        result: Tensor = func(input, *args, **kwargs)
        return result
    return joint.local(func(joint.whole(input), *args, **kwargs))


def _like(joint: JointBatch, func: Call, input: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    times = joint.times(input.shape)
    if not times:
        result: Tensor = func(input, *args, **kwargs)
        return result
    return joint.local(func(joint.empty(input), *args, **kwargs))


def _shaped(joint: JointBatch, func: Call, *size: Any, **kwargs: Any) -> Tensor:
    given = kwargs.pop("size", size)
    shape = tuple(given[0]) if len(given) == 1 and not isinstance(given[0], int) else tuple(given)
    times = joint.times(shape)
    if not times:
        result: Tensor = func(shape, **kwargs)
        return result
    return joint.local(func((times * joint.total, *shape[1:]), **kwargs))


def _in_place(joint: JointBatch, func: Call, input: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    times = joint.times(input.shape)
    if not times:
        result: Tensor = func(input, *args, **kwargs)
        return result
    drawn = func(joint.empty(input), *args, **kwargs)
    return input.copy_(joint.local(drawn))


def _attention(
    joint: JointBatch,
    func: Call,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """Attention in its plain form where its weights have dropout; fused kernels draw their own masks."""
    if not dropout_p:
        result: Tensor = func(
            query, key, value, attn_mask, 0.0, is_causal, scale=scale, enable_gqa=enable_gqa
        )
        return result
    scores = query @ key.transpose(-2, -1) * (1 / math.sqrt(query.shape[-1]) if scale is None else scale)
    if is_causal:
        seen = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
        scores = scores.masked_fill(~seen, -math.inf)
    if attn_mask is not None:
        boolean = attn_mask.dtype == torch.bool
        scores = scores.masked_fill(~attn_mask, -math.inf) if boolean else scores + attn_mask
    return _masked(joint, F.dropout, scores.softmax(dim=-1), dropout_p) @ value


REPLACED: dict[Call, Call] = {F.batch_norm: _batch_norm, F.scaled_dot_product_attention: _attention}
REPLACED |= dict.fromkeys(MASKED, _masked) | dict.fromkeys(DRAWING, _drawing)
REPLACED |= dict.fromkeys(LIKE, _like) | dict.fromkeys(SHAPED, _shaped) | dict.fromkeys(IN_PLACE, _in_place)
