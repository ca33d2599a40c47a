"""The byte format of a stored output: all logits and features, or only the largest logits."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NoReturn

import torch
from torch import Tensor

from richkd.core.errors import CacheError
from richkd.core.types import Output

# Class positions are stored as signed 16-bit integers.
MOST_CLASSES = 1 << 15


@dataclass(frozen=True)
class RowFormat:
    """The byte format of one stored output.

    A dense row has ``classes`` logits and ``features`` values in float16, 2 bytes each; a wide one has them
    in float32. A sparse row stores the k largest logits with their class positions, and log(mean(exp(z)))
    over the other logits z, which replaces each of them when the row is read. It takes 4 + 4k bytes, plus 2
    bytes per feature.

    Args:
        classes: number of logits; 0 if the logits are computed from the features, as for CLIP.
        features: number of features; 0 if none are stored.
        top_k: k for sparse rows, None for dense rows.
        wide: store float32, for held-out images, on which teachers are evaluated; not for sparse rows.

    Raises:
        CacheError: k is not in 1..classes, or sparse rows have more than 32,768 classes.

    Example:
        >>> rows = RowFormat(classes=3, features=2)
        >>> packed_BR = rows.pack(Output(torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[0.5, 0.25]])))
        >>> rows.row_bytes, rows.unpack(packed_BR).logits_BC.tolist()
        (10, [[1.0, 2.0, 3.0]])
    """

    classes: int
    features: int
    top_k: int | None = None
    wide: bool = False

    def __post_init__(self) -> None:
        if self.top_k is not None and not (1 <= self.top_k <= self.classes <= MOST_CLASSES):
            raise CacheError(
                f"cache.top_k must be in 1..classes, for at most {MOST_CLASSES:,} classes",
                got=f"cache.top_k {self.top_k} for {self.classes:,} classes",
                fix="use a smaller --cache.top_k, or remove it to store all logits.",
            )

    @property
    def row_bytes(self) -> int:
        """Number of bytes R of a row."""
        if self.top_k is None:
            return (4 if self.wide else 2) * (self.features + self.classes)
        return 2 * self.features + 4 + 4 * self.top_k

    @property
    def _dtype(self) -> torch.dtype:
        return torch.float32 if self.wide and self.top_k is None else torch.float16

    def pack(self, output: Output) -> Tensor:
        """Convert outputs to rows (B, row_bytes) in uint8, on the CPU.

        Raises:
            CacheError: an output that is stored is NaN or infinite, or too large for the format.
        """
        logits_BC, feats_BF = output.logits_BC.detach(), output.feats_BF.detach()
        parts = [self._numbers(feats_BF)] if self.features else []
        if self.top_k is not None:
            values_BK, classes_BK = logits_BC.topk(self.top_k, dim=1)
            others_BC = logits_BC.scatter(1, classes_BK, -math.inf)
            rest_B = others_BC.logsumexp(dim=1) - math.log(max(1, self.classes - self.top_k))
            # With k = C there are no other logits; their logsumexp would be −∞.
            rest_B = rest_B if self.top_k < self.classes else torch.zeros_like(rest_B)
            if not bool(rest_B.isfinite().all()):
                refuse_unstorable(logits_BC, math.inf)
            parts += [rest_B.float()[:, None].view(torch.int16), classes_BK.short()]
            parts += [self._numbers(values_BK)]
        elif self.classes:
            parts += [self._numbers(logits_BC)]
        return torch.cat([part.cpu() for part in parts], dim=1).contiguous().view(torch.uint8)

    def _numbers(self, values_BV: Tensor) -> Tensor:
        """Values in the type of the rows, in pieces of two bytes."""
        stored_BV = values_BV.to(self._dtype)
        if not bool(stored_BV.isfinite().all()):
            refuse_unstorable(values_BV, torch.finfo(self._dtype).max)
        return stored_BV.contiguous().view(torch.int16)

    def finite(self, rows_BR: Tensor) -> bool:
        """Whether all numbers of stored rows are finite."""
        if self.top_k is None:
            return bool(rows_BR.contiguous().view(self._dtype).isfinite().all())
        words_BW = rows_BR.contiguous().view(torch.int16)
        feats, values = words_BW[:, : self.features], words_BW[:, self.features + 2 + self.top_k :]
        rest_B1 = words_BW[:, self.features : self.features + 2].contiguous().view(torch.float32)
        halves = (part.contiguous().view(torch.float16) for part in (feats, values))
        return all(bool(part.isfinite().all()) for part in (*halves, rest_B1))

    def unpack(self, rows_BR: Tensor) -> Output:
        """Convert rows (B, row_bytes) back to float32 outputs; if ``classes`` is 0, the logits are (B, 0)."""
        assert rows_BR.shape[1] == self.row_bytes
        if self.top_k is None:
            values_BV = rows_BR.contiguous().view(self._dtype).float()
            feats_BF, logits_BC = values_BV[:, : self.features], values_BV[:, self.features :]
            # Matrix products of some processors round otherwise if rows are not consecutive in memory.
            return Output(logits_BC.contiguous(), feats_BF.contiguous())
        words_BW = rows_BR.contiguous().view(torch.int16)
        feats_BF = words_BW[:, : self.features].view(torch.float16).float()
        words_BW = words_BW[:, self.features :]
        rest_B1 = words_BW[:, :2].contiguous().view(torch.float32)
        classes_BK = words_BW[:, 2 : 2 + self.top_k].long()
        values_BK = words_BW[:, 2 + self.top_k :].view(torch.float16).float()
        logits_BC = rest_B1.expand(-1, self.classes).scatter(1, classes_BK, values_BK)
        return Output(logits_BC, feats_BF)

    def restored(self, output: Output) -> Output:
        """The output as it would be read after it was stored."""
        return self.unpack(self.pack(output))


def refuse_unstorable(values_BV: Tensor, most: float) -> NoReturn:
    """Say why values cannot be stored.

    Raises:
        CacheError: they are not finite, or larger than ``most``.

    Example:
        >>> try:
        ...     refuse_unstorable(torch.tensor([[70_000.0]]), 65_504.0)
        ... except CacheError as error:
        ...     error.got
        'numbers up to 70,000'
    """
    if not bool(values_BV.isfinite().all()):
        raise CacheError(
            "Outputs of a teacher must be finite",
            got="NaN or infinity",
            fix="check the weights of the teacher, or use --train.teacher_precision fp32.",
        )
    raise CacheError(
        f"Outputs of a teacher must be at most {most:,.0f} to be stored in float16",
        got=f"numbers up to {float(values_BV.abs().max()):,.0f}",
        fix="divide the outputs of the teacher by a constant.",
    )


def as_stored(output: Output) -> Output:
    """Round logits and features to float16 and back to float32.

    Computed outputs are rounded like stored ones, so that runs with and without a cache have identical
    targets.

    Example:
        >>> output = as_stored(Output(torch.tensor([[0.1]]), torch.zeros(1, 0)))
        >>> float(output.logits_BC), output.logits_BC.dtype == torch.float32
        (0.0999755859375, True)
    """
    return Output(output.logits_BC.half().float(), output.feats_BF.half().float(), output.maps)
