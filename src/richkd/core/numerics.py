"""Precision and checks that losses, metrics and fusion share."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from richkd.core.errors import ConfigError


def at_least_fp32(x: Tensor) -> Tensor:
    """``x`` as float32, or as float64 where it already is: autocast must not decide a loss's precision."""
    return x if x.dtype == torch.float64 else x.float()


def in_float64(x: Tensor) -> Tensor:
    """``x`` as float64, on its own device where that device knows float64."""
    return (x.cpu() if x.device.type == "mps" else x).double()


def check_temperature(temperature: float) -> None:
    """Refuse a temperature that is not a positive finite number.

    Raises:
        ConfigError: naming the argument and the value received.
    """
    if not 0.0 < temperature < float("inf"):
        raise ConfigError(
            "Argument 'temperature' must be a positive finite number",
            got=repr(temperature),
            fix="use 3 or 4 for distillation, 0.07 for contrast.",
        )


def kl_nats(p_logits_BC: Tensor, q_logits_BC: Tensor) -> Tensor:
    """KL(softmax(p) ‖ softmax(q)) of each image, shape (B), in nats: for reports, not for training.

    Always float64, because reports tell apart divergences of 1e-6 nats, where float32 is mostly rounding.
    """
    p_log_BC = F.log_softmax(in_float64(p_logits_BC), dim=-1)
    q_log_BC = F.log_softmax(in_float64(q_logits_BC), dim=-1)
    return (p_log_BC.exp() * (p_log_BC - q_log_BC)).sum(-1)
