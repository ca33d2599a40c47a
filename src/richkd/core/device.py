"""Which device networks run on."""

from __future__ import annotations

import torch

from richkd.core.errors import ConfigError


def pick_device(name: str = "auto") -> torch.device:
    """The device of a name: ``"cpu"``, ``"cuda"`` (or ``"cuda:1"``), ``"mps"``, or the best that exists.

    ``"auto"`` prefers CUDA, then Apple's MPS, then the CPU.

    Raises:
        ConfigError: a device that this machine or this build of PyTorch does not have.

    Example:
        >>> pick_device("cpu").type
        'cpu'
    """
    available = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if name == "auto":
        return torch.device(next(kind for kind, exists in available.items() if exists))
    kind, _, number = name.partition(":")
    known = kind in available and (number == "" or (kind == "cuda" and number.isdigit()))
    count = torch.cuda.device_count() if kind == "cuda" else 1
    if not known or not available[kind] or int(number or 0) >= count:
        has = ", ".join(kind for kind, exists in available.items() if exists)
        raise ConfigError(f"Device '{name}' must exist", got=f"this machine has: {has}", fix="use auto.")
    return torch.device(name)
