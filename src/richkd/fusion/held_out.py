"""Held-out images: outputs of teachers on which a fusion is fitted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from richkd.core.errors import DataError
from richkd.metrics.probabilities import recognized


@dataclass(frozen=True)
class HeldOut:
    """Logits for images that no teacher was trained on; the fusion is fitted on them.

    Attributes:
        names: name of each teacher.
        logits: logits (N, C) of each teacher.
        labels_N: labels of the images.
        split: name of the split that the images come from.

    Raises:
        DataError: there are no images, or values of a teacher are not finite or are probabilities.

    Example:
        >>> import torch
        >>> str(HeldOut(["a"], [torch.tensor([[2.0, -1.0]])], torch.tensor([0]), "val"))
        '1 images of val'
    """

    names: Sequence[str]
    logits: Sequence[Tensor]
    labels_N: Tensor
    split: str

    def __post_init__(self) -> None:
        if not len(self.labels_N):
            raise DataError(
                "Fusion is fitted on held-out images",
                got=f"none in {self.split}",
                fix="give --data.calibration DIR or a larger --data.val_fraction.",
            )
        for name, logits_NC in zip(self.names, self.logits, strict=True):
            assert logits_NC.shape[0] == len(self.labels_N)
            bad_N = ~logits_NC.isfinite().all(dim=1)
            if bad_N.any():
                raise DataError(
                    f"Outputs of a teacher for {self.split} must be finite; those of '{name}' are not",
                    got=f"NaN or infinity for {int(bad_N.sum())} of {len(bad_N)} images",
                    fix="check its weights, or compute them with --train.teacher_precision fp32.",
                )
            if (kind := recognized(logits_NC)) is not None:
                raise DataError(
                    f"A teacher must return logits or log-probabilities; teacher '{name}' does not",
                    got=f"{kind}: no value is negative, and each row has the same sum",
                    fix="use the values before its softmax, or the logarithm of the probabilities.",
                )

    def __str__(self) -> str:
        return f"{len(self.labels_N)} images of {self.split}"
