"""Numeric precision and checks that losses, metrics and fusion share."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from richkd.core.errors import ConfigError


def at_least_fp32(x: Tensor) -> Tensor:
    """Convert to float32, or keep float64, so that autocast does not lower the precision of a loss.

    Example:
        >>> at_least_fp32(torch.zeros(1, dtype=torch.bfloat16)).dtype == torch.float32
        True
    """
    return x if x.dtype == torch.float64 else x.float()


def without_autocast(x: Tensor) -> torch.autocast:
    """A context in which products of tensors on the device of ``x`` keep their precision.

    Autocast lowers the precision of every matrix product, also of float32 tensors, so `at_least_fp32` is not
    enough for a loss that contains one.

    Example:
        >>> x = torch.ones(2, 2)
        >>> with torch.autocast("cpu", torch.bfloat16):
        ...     inside = x @ x
        ...     with without_autocast(x):
        ...         inside.dtype, (x @ x).dtype
        (torch.bfloat16, torch.float32)
    """
    return torch.autocast(x.device.type, enabled=False)


def in_float64(x: Tensor) -> Tensor:
    """Convert to float64; a tensor on a device without float64 (Apple's MPS) is moved to the CPU.

    Example:
        >>> in_float64(torch.zeros(1)).dtype == torch.float64
        True
    """
    return (x.cpu() if x.device.type == "mps" else x).double()


def check_temperature(temperature: float) -> None:
    """Check that a temperature is a positive finite number.

    Raises:
        ConfigError: it is zero, negative, infinite or NaN.

    Example:
        >>> check_temperature(4.0)
    """
    if not 0.0 < temperature < float("inf"):
        raise ConfigError(
            "Argument 'temperature' must be a positive finite number",
            got=repr(temperature),
            fix="use 3 or 4 for distillation, 0.07 for contrast.",
        )


def kl_nats(p_logits_BC: Tensor, q_logits_BC: Tensor) -> Tensor:
    """KL(softmax(p) ‖ softmax(q)) of each image, shape (B), in nats: for reports, not for training.

    Always computed in float64: reports compare divergences of about 1e-6 nats, which in float32 are mostly
    rounding errors.

    Example:
        >>> p_BC, q_BC = torch.tensor([[0.5, 0.5]]).log(), torch.tensor([[0.25, 0.75]]).log()
        >>> round(float(kl_nats(p_BC, q_BC)), 4)  # (ln 2 + ln 2/3) / 2
        0.1438
    """
    p_log_BC = F.log_softmax(in_float64(p_logits_BC), dim=-1)
    q_log_BC = F.log_softmax(in_float64(q_logits_BC), dim=-1)
    return (p_log_BC.exp() * (p_log_BC - q_log_BC)).sum(-1)
