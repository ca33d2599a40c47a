"""Which device networks run on, and how tensors get there without waiting for it."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

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


def moved(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on a device. A GPU does not have to finish its work first, as it has for `Tensor.to`.

    CUDA copies from ordinary memory only after everything that was started before. From pinned memory it
    copies while it computes.

    Example:
        >>> moved(torch.tensor([1.0]), torch.device("cpu")).device.type
        'cpu'
    """
    if device.type == "cuda" and tensor.device.type == "cpu":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


@lru_cache(maxsize=256)
def constant(values: tuple[float, ...], device: torch.device, dtype: torch.dtype = torch.float32) -> Tensor:
    """A tensor of these numbers on a device, copied there once. It must not be changed.

    Example:
        >>> constant((0.5, 2.0), torch.device("cpu")).tolist()
        [0.5, 2.0]
    """
    # A tensor that is made in inference mode could not be used in training later.
    with torch.inference_mode(False):
        return torch.tensor(values, dtype=dtype, device=device)


def seed_generators(seed: int, device: torch.device) -> None:
    """Seed PyTorch's global generators of the CPU and of a device.

    `torch.manual_seed` also notes, for every kind of device that is not in use, where it was called from.
    That takes a millisecond.

    Example:
        >>> seed_generators(3, torch.device("cpu"))
        >>> first = float(torch.rand(()))
        >>> seed_generators(3, torch.device("cpu"))
        >>> float(torch.rand(())) == first
        True
    """
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        index = torch.cuda.current_device() if device.index is None else device.index
        torch.cuda.default_generators[index].manual_seed(seed)
    elif device.type == "mps":
        torch.mps.manual_seed(seed)
