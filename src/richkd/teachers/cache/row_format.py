"""How a teacher's output is kept in bytes: float16 logits and features, or the largest logits alone."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from richkd.core.errors import CacheError
from richkd.core.types import Output

# Positions of classes are kept in 16 bits.
MOST_CLASSES = 1 << 15


@dataclass(frozen=True)
class RowFormat:
    """The layout of one stored output.

    Dense rows hold ``classes`` logits and ``features`` values, 2 bytes each. Rows with ``top_k`` k hold
    the k largest logits with their classes, and the log of the mean exponential of the others, which
    all other classes then share: 4 + 4k bytes and the features. ``classes`` is 0 where logits are
    computed from the features, as a CLIP's are.

    Raises:
        CacheError: more classes than a 16-bit position can name, or k outside of 1..classes.
    """

    classes: int
    features: int
    top_k: int | None = None

    def __post_init__(self) -> None:
        if self.top_k is not None and not (1 <= self.top_k <= self.classes <= MOST_CLASSES):
            raise CacheError(
                f"Sparse rows keep between 1 and all of at most {MOST_CLASSES:,} logits",
                got=f"cache.top_k {self.top_k} of {self.classes:,} classes",
                fix="lower --cache.top_k, or remove it to store every logit.",
            )

    @property
    def row_bytes(self) -> int:
        return 2 * self.features + (2 * self.classes if self.top_k is None else 4 + 4 * self.top_k)

    def pack(self, output: Output) -> Tensor:
        """uint8 rows (B, row_bytes), on the CPU.

        Raises:
            CacheError: an output that is NaN or infinite, or too large for float16.
        """
        logits_BC, feats_BF = output.logits_BC.detach(), output.feats_BF.detach()
        parts = [feats_BF.half().view(torch.int16)] if self.features else []
        if self.top_k is not None:
            values_BK, classes_BK = logits_BC.topk(self.top_k, dim=1)
            others_BC = logits_BC.scatter(1, classes_BK, -math.inf)
            rest_B = others_BC.logsumexp(dim=1) - math.log(max(1, self.classes - self.top_k))
            # With k = C there are no others, and nothing reads what stands for them.
            rest_B = rest_B if self.top_k < self.classes else torch.zeros_like(rest_B)
            parts += [rest_B.float()[:, None].view(torch.int16), classes_BK.short()]
            parts += [values_BK.half().view(torch.int16)]
        elif self.classes:
            parts += [logits_BC.half().view(torch.int16)]
        kept = [feats_BF.half()] * bool(self.features) + [logits_BC.half()] * bool(self.classes)
        if not all(bool(part.isfinite().all()) for part in kept):
            raise CacheError(
                "A teacher's outputs must be finite and below 65,504 to be stored",
                got="NaN, infinity or a larger number",
                fix="check the teacher's weights, or compute it in --train.teacher_precision fp32.",
            )
        return torch.cat([part.cpu() for part in parts], dim=1).contiguous().view(torch.uint8)

    def unpack(self, rows_BR: Tensor) -> Output:
        """The float32 output of packed rows; its logits have no columns where ``classes`` is 0."""
        assert rows_BR.shape[1] == self.row_bytes
        words_BW = rows_BR.contiguous().view(torch.int16)
        feats_BF = words_BW[:, : self.features].view(torch.float16).float()
        words_BW = words_BW[:, self.features :]
        if self.top_k is None:
            return Output(words_BW.view(torch.float16).float(), feats_BF)
        rest_B1 = words_BW[:, :2].contiguous().view(torch.float32)
        classes_BK = words_BW[:, 2 : 2 + self.top_k].long()
        values_BK = words_BW[:, 2 + self.top_k :].view(torch.float16).float()
        logits_BC = rest_B1.expand(-1, self.classes).scatter(1, classes_BK, values_BK)
        return Output(logits_BC, feats_BF)


def as_stored(output: Output) -> Output:
    """Round an output to float16 and back, so that a target is one number whether computed or read."""
    return Output(output.logits_BC.half().float(), output.feats_BF.half().float(), output.maps)
