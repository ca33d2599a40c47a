"""The target of some teachers alone, and how far a fused target is from it."""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor

from richkd.core.numerics import kl_nats
from richkd.fusion.fit import fit_inverse_temperature
from richkd.fusion.fusion import Fusion
from richkd.fusion.mixing import LogPool, Mixing
from richkd.fusion.scale import Scale
from richkd.fusion.shares import equal_shares


def first_teachers_only(fusion: Fusion, count: int, multiplier: float = 1.0) -> Fusion:
    """The fusion of the first ``count`` teachers without the rest.

    One teacher: its logits, unchanged. Several: the mean of their scaled log-probabilities. The result is
    multiplied. What is not about mixing stays as it is: the weights of unusual images, and the scales of
    features.

    Example:
        >>> import torch
        >>> from richkd.config.schema import FusionConfig
        >>> from richkd.fusion.fuse import fuse
        >>> logits = [torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 9.0]])]
        >>> fusion = fuse(FusionConfig(weights=(0.5, 0.5)), [1.0, 1.0], None)
        >>> logits_BC = first_teachers_only(fusion, 1, multiplier=3.0).logits(logits[:1])
        >>> round(float(logits_BC[0, 0] - logits_BC[0, 1]), 4)
        3.0
    """
    scales = (Scale(),) if count == 1 else fusion.scales[:count]
    pool = LogPool((multiplier / count,) * count)
    return _part(fusion, slice(count), scales, pool, equal_shares(count))


def last_teacher_only(fusion: Fusion) -> Fusion:
    """The last teacher without the rest, at its scale; everything else stays as in `first_teachers_only`.

    Example:
        >>> from richkd.config.schema import FusionConfig
        >>> from richkd.fusion.fuse import fuse
        >>> fusion = fuse(FusionConfig(preset="paper"), [1.0, 100.0], None)
        >>> last_teacher_only(fusion).multipliers
        (100.0,)
    """
    return _part(fusion, slice(-1, None), fusion.scales[-1:], LogPool((1.0,)), (1.0,))


def _part(
    fusion: Fusion, teachers: slice, scales: tuple[Scale, ...], mixing: Mixing, shares: tuple[float, ...]
) -> Fusion:
    return replace(
        fusion,
        scales=scales,
        mixing=mixing,
        feature_weights=shares,
        ood_weights=None if fusion.ood_weights is None else fusion.ood_weights.only(teachers),
        features=None if fusion.features is None else fusion.features[teachers],
        factor=1.0,
        fitted=False,
    )


@dataclass(frozen=True)
class TargetShift:
    """How much a fused target differs from the target of some teachers alone at any temperature.

    Attributes:
        nats: mean KL divergence between the fused target and the closest tempered target of the teachers
            alone.
        multiplier: inverse temperature of that closest target, which is also the target of the control.
    """

    nats: float
    multiplier: float


def measure_target_shift(fused_NC: Tensor, first_NC: Tensor, temperature: float) -> TargetShift:
    """``min_β mean KL(softmax(z_F / T) ‖ softmax(β z_1 / T))``: the part that no temperature explains.

    Args:
        fused_NC: logits z_F of the fused target.
        first_NC: logits z_1 of the teachers alone, from `first_teachers_only`.
        temperature: T of the loss that reads the target.

    Example:
        >>> import torch
        >>> logits_NC = torch.tensor([[2.0, 0.0, -1.0], [0.0, 1.0, 0.5]])
        >>> shift = measure_target_shift(3 * logits_NC, logits_NC, temperature=4.0)
        >>> round(abs(shift.nats), 6), round(shift.multiplier, 3)  # only the temperature differs
        (0.0, 3.0)
    """
    fused_NC, first_NC = fused_NC.double() / temperature, first_NC.double() / temperature
    multiplier = fit_inverse_temperature(first_NC, fused_NC.softmax(dim=1))
    return TargetShift(float(kl_nats(fused_NC, multiplier * first_NC).mean()), multiplier)
