"""Select the floating-point type in which the networks compute."""

from __future__ import annotations

import torch


def autocast_dtype(precision: str, device: torch.device) -> torch.dtype | None:
    """The autocast dtype for a precision setting; None means float32 without autocast.

    Args:
        precision: ``"fp32"``; ``"bf16"``; or ``"auto"``, which selects bfloat16 if the hardware supports it.
        device: the device of the networks.

    Example:
        >>> autocast_dtype("bf16", torch.device("cpu")) == torch.bfloat16
        True
        >>> autocast_dtype("fp32", torch.device("cpu")) is None
        True
    """
    if precision == "auto":
        if device.type == "cuda":
            precision = "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
        else:
            precision = "bf16" if _cpu_has_bf16() else "fp32"
    return torch.bfloat16 if precision == "bf16" else None


def _cpu_has_bf16() -> bool:
    # Without these instructions bfloat16 is emulated and slower than float32.
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
