"""The forms that a batch of the user's own loop can have."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from richkd.core.errors import DataError

Batches = Iterable[Any]


def parts_of(batch: Any, device: torch.device) -> tuple[Tensor, Tensor, Tensor | None]:
    """Pixels, labels and positions (on the CPU) of a batch.

    Raises:
        DataError: the batch has another form.

    Example:
        >>> pixels, labels, index = parts_of({"pixel_values": torch.rand(1, 3, 2, 2), "labels": [4]}, "cpu")
        >>> labels.tolist(), index
        ([4], None)
    """
    if isinstance(batch, Mapping):
        parts = [batch.get(name) for name in ("pixel_values", "labels", "index")]
    else:
        parts = [*batch, None, None, None][:3] if isinstance(batch, list | tuple) else [None] * 3
    pixels, labels, index = parts
    if not isinstance(pixels, Tensor) or pixels.ndim != 4 or labels is None or len(labels) != len(pixels):
        raise DataError(
            "A batch must hold pixels (B, 3, H, W) and B labels: a tuple, or pixel_values and labels",
            got=_described(batch),
            fix="change what the loader returns, or its collate_fn.",
        )
    known = None if index is None else torch.as_tensor(index).cpu()
    return pixels.to(device), torch.as_tensor(labels).to(device), known


def device_of(module: nn.Module) -> torch.device:
    """The device of a module's parameters; the CPU if it has none.

    Example:
        >>> device_of(nn.Linear(2, 2))
        device(type='cpu')
    """
    return next(module.parameters(), torch.empty(0)).device


def _described(batch: Any) -> str:
    if isinstance(batch, Mapping):
        return f"a mapping with {', '.join(map(str, batch)) or 'nothing'}"
    if isinstance(batch, list | tuple):
        return ", ".join(
            f"shape {tuple(x.shape)}" if isinstance(x, Tensor) else type(x).__name__ for x in batch
        )
    return type(batch).__name__
