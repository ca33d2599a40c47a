"""The floating-point types in which networks can compute."""

from __future__ import annotations

import torch


def autocast_dtype(precision: str) -> torch.dtype | None:
    """The autocast dtype of a precision: bfloat16 for ``"bf16"``, None (no autocast) for ``"fp32"``.

    Example:
        >>> autocast_dtype("bf16"), autocast_dtype("fp32")
        (torch.bfloat16, None)
    """
    return torch.bfloat16 if precision == "bf16" else None


def precisions_of(device: torch.device) -> tuple[str, ...]:
    """The precisions that a device has instructions for, the usually faster one first.

    On a GPU this is bfloat16. On a CPU it is float32: matrix products are faster in bfloat16, but depthwise
    convolutions, of which small networks consist, are slower. Emulated bfloat16 is always slower.

    Example:
        >>> precisions_of(torch.device("cpu"))[0]
        'fp32'
    """
    if device.type == "cuda":
        has_bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
        return ("bf16", "fp32") if has_bf16 else ("fp32",)
    return ("fp32", "bf16") if _cpu_has_bf16() else ("fp32",)


def emulation_warning(precision: str, device: torch.device) -> str:
    """A warning if a device only emulates a precision; empty if it has it.

    Example:
        >>> emulation_warning("fp32", torch.device("cpu"))
        ''
    """
    if precision == "auto" or precision in precisions_of(device):
        return ""
    where = "GPU" if device.type == "cuda" else "processor"
    return (
        f"this {where} has no instructions for bfloat16 and emulates it, which can take 20 times as long; "
        "use --train.precision auto or fp32, and the same for --train.teacher_precision"
    )


def _cpu_has_bf16() -> bool:
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
