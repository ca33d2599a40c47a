"""Fusion of experts: several teachers' logits and features become one target.

Every way of fusing logits here comes down to one multiplier for each expert,
``z_F = Σ_m w_m · z_m``: a temperature is a division of logits, and α is a share of what results. The
presets differ in where the multipliers come from. Cosines of a CLIP spread by a few hundredths within
an image while a classifier's logits spread by several units, so what an unscaled sum fuses is the
classifier alone at another temperature; :func:`signal_nats` measures that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from richkd.config import FusionConfig
from richkd.errors import ConfigError
from richkd.losses.logits import kl_nats
from richkd.records import Output, Target

PAPER_ALPHA = 0.7
NEWTON_STEPS = 100


@dataclass(frozen=True)
class Fusion:
    """Fixed multipliers of experts: the fused logits ``Σ_m w_m · z_m`` and the shares of fused features.

    Attributes:
        logit_weights: multiplier of each expert's logits; a CLIP's logits are cosines.
        feature_weights: share of each expert's embedded features, summing to one (paper: λ, 1 − λ).
        origin: where the multipliers came from, for the log.
    """

    logit_weights: tuple[float, ...]
    feature_weights: tuple[float, ...]
    origin: str

    def __call__(self, experts: Sequence[Output]) -> Target:
        assert len(experts) == len(self.logit_weights)
        return Target(
            fused_logits([expert.logits_BC for expert in experts], self.logit_weights),
            tuple(experts),
            self.feature_weights,
        )


def fused_logits(logits: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """``Σ_m w_m · z_m`` of (B, C) logits (paper, logit fusion: ``α·z_T + (1 − α)·z_C``)."""
    return torch.stack([weight * z_BC for weight, z_BC in zip(weights, logits, strict=True)]).sum(dim=0)


def alone() -> Fusion:
    """The target of a single expert: its logits as they are."""
    return Fusion((1.0,), (1.0,), "one expert, as it is")


def fixed(config: FusionConfig, logit_scales: Sequence[float]) -> Fusion:
    """Multipliers that need no held-out images: presets ``paper`` and ``as-released``, or given ones.

    ``paper``: ``(α, (1 − α)·s)`` with CLIP's own scale s, so that both terms are logits of
    probabilities. ``as-released``: ``(α, 1 − α)`` on raw cosines, as the published code computes it.

    Raises:
        ConfigError: a number of weights that is not the number of experts.
    """
    experts = len(logit_scales)
    alpha = PAPER_ALPHA if config.alpha is None else config.alpha
    features = feature_shares(config, experts)
    if config.weights is not None:
        if len(config.weights) != experts:
            raise ConfigError(
                "fusion.weights must hold one multiplier for each expert (teacher, then CLIP)",
                got=f"{len(config.weights)} for {experts} experts",
                fix="give as many numbers as there are experts.",
            )
        return Fusion(config.weights, features, "given multipliers")
    shares = (alpha, 1 - alpha) if experts == 2 else (1.0,)
    if config.preset == "as-released":
        return Fusion(shares, features, f"as released: α = {alpha} on raw cosines")
    weights = tuple(share * scale for share, scale in zip(shares, logit_scales, strict=True))
    return Fusion(weights, features, f"paper: α = {alpha} on logits at each expert's own scale")


def fitted(config: FusionConfig, logits: Sequence[Tensor], labels_N: Tensor, split: str) -> Fusion:
    """Multipliers that minimise the fused NLL on held-out images (preset ``default``).

    With α given, each expert is first brought to its own best temperature and α mixes the results:
    ``(α/T_T, (1 − α)/T_C)``. Without it all multipliers are fitted together, which can only lower the
    held-out NLL below that of every expert at its best temperature.

    Args:
        logits: each expert's (N, C) logits of images that the vision teacher was not trained on.
        labels_N: their labels.
        split: where they come from, for the log.
    """
    features = feature_shares(config, len(logits))
    if config.alpha is not None and len(logits) == 2:
        own = [fit_multipliers([z_NC], labels_N)[0] for z_NC in logits]
        weights = (config.alpha * own[0], (1 - config.alpha) * own[1])
        return Fusion(weights, features, f"α = {config.alpha} on calibrated logits, fitted on {split}")
    return Fusion(fit_multipliers(logits, labels_N), features, f"fitted on {len(labels_N)} images of {split}")


def fit_multipliers(logits: Sequence[Tensor], labels_N: Tensor) -> tuple[float, ...]:
    """The non-negative multipliers with the least NLL: ``argmin_{w ≥ 0} mean −log softmax(Σ_m w_m z_m)[y]``.

    The problem is convex. Solved by projected Newton steps with backtracking in float64, from the best
    single expert, so the result is never worse than any expert at its best temperature.
    """
    stack_MNC = torch.stack([z_NC.double() for z_NC in logits])
    largest_M = stack_MNC.abs().amax(dim=(1, 2))
    # Centred logits change no probability and condition the Hessian well.
    stack_MNC = stack_MNC - stack_MNC.mean(dim=2, keepdim=True)
    spread_M = stack_MNC.std(dim=(1, 2))
    # An expert whose logits are equal within each image says nothing: what is left of them is rounding,
    # which a division by its spread would blow up. Its multiplier is zero.
    speaks_M = spread_M > FLAT * largest_M
    spread_M = spread_M.where(speaks_M, 1.0)
    stack_MNC = stack_MNC * (speaks_M / spread_M)[:, None, None]

    def nll(weights_M: Tensor) -> Tensor:
        return functional.cross_entropy(torch.einsum("m,mnc->nc", weights_M, stack_MNC), labels_N)

    def solve(weights_M: Tensor, free_M: Tensor) -> Tensor:
        for _ in range(NEWTON_STEPS):
            gradient_M, hessian_MM = _derivatives(weights_M, stack_MNC, labels_N)
            active_M = free_M & ~((weights_M <= 0) & (gradient_M > 0))
            if not active_M.any() or gradient_M[active_M].abs().max() < 1e-10:
                break
            step_M = torch.zeros_like(weights_M)
            ridge = 1e-9 * torch.eye(int(active_M.sum()), dtype=torch.float64)
            step_M[active_M] = torch.linalg.solve(
                hessian_MM[active_M][:, active_M] + ridge, gradient_M[active_M]
            )
            before, size = nll(weights_M), 1.0
            while size > 1e-8:
                trial_M = (weights_M - size * step_M).clamp(0, MAX_MULTIPLIER)
                if nll(trial_M) < before:
                    break
                size /= 2
            else:
                break
            weights_M = trial_M
        return weights_M

    experts = torch.eye(len(logits), dtype=torch.float64)
    singles = [solve(one_M, one_M > 0) for one_M in experts]
    start_M = min(singles, key=lambda weights_M: float(nll(weights_M)))
    best_M = solve(start_M, torch.ones(len(logits), dtype=torch.bool))
    return tuple(float(value) for value in best_M * speaks_M / spread_M)


# Spread of logits, relative to the largest of them, that float32 cannot tell from none.
FLAT = 1e-7
# On separable held-out images the best multiplier is infinite; this is a standard deviation of logits
# beyond which probabilities no longer change in float32.
MAX_MULTIPLIER = 100.0


def _derivatives(weights_M: Tensor, stack_MNC: Tensor, labels_N: Tensor) -> tuple[Tensor, Tensor]:
    """Gradient and Hessian of the mean NLL: ``E[z̄ − z_y]`` and the mean covariance of z under the softmax."""
    probs_NC = torch.einsum("m,mnc->nc", weights_M, stack_MNC).softmax(dim=1)
    mean_MN = torch.einsum("nc,mnc->mn", probs_NC, stack_MNC)
    truth_MN = stack_MNC[:, torch.arange(len(labels_N)), labels_N]
    gradient_M = (mean_MN - truth_MN).mean(dim=1)
    second_MM = torch.einsum("nc,anc,bnc->ab", probs_NC, stack_MNC, stack_MNC) / len(labels_N)
    return gradient_M, second_MM - mean_MN @ mean_MN.T / len(labels_N)


def feature_shares(config: FusionConfig, experts: int) -> tuple[float, ...]:
    """λ for the vision teacher and 1 − λ for CLIP, or everything for the only expert."""
    lam = PAPER_ALPHA if config.lam is None else config.lam
    return (lam, 1 - lam) if experts == 2 else (1.0,)


def signal_nats(logits: Sequence[Tensor], weights: Sequence[float], temperature: float) -> Tensor:
    """How much the other experts add to the first one's target: mean KL(fused ‖ first alone) in nats.

    Both sides keep the first expert's multiplier and the temperature T of the loss, so the control has
    the same effective temperature ``T / w_0`` and only the other experts' signal is left.
    """
    fused_BC = fused_logits(logits, weights) / temperature
    control_BC = weights[0] * logits[0] / temperature
    return kl_nats(fused_BC, control_BC).mean()
