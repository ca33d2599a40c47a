"""Fit the factors of logits: minimize the negative log-likelihood (NLL) on held-out images, with a prior.

A factor of one set of logits is an inverse temperature. Factors of several teachers' logits are the weights
of a logarithmic pool. Without a prior, the best factor is infinite as soon as all held-out images are
classified correctly, and a few images too few for a good estimate. The prior keeps a factor near a center
that was not fitted; its influence decreases as 1/N.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional

NEWTON_STEPS = 200
# In nats: a fit stops when the predicted gain of the next step is smaller.
LEAST_GAIN = 1e-14
# Logarithms of factors divided by their centers, among which the search starts at the best.
STARTS = (0.0, *(sign * size for size in range(1, 11) for sign in (-1.0, 1.0)))
# A step that was halved more often gains nothing but rounding errors.
LEAST_SIZE = 1e-8
# The prior counts as much as this number of images, see `log_prior`. Chosen by simulation:
# tests/fusion/test_prior.py and docs/fusion.md.
PRIOR_IMAGES = 16.0
# If the standard deviation of all logits is below this share of the largest one, it is a rounding error.
FLAT = 1e-7


def log_prior(log_ratio: Tensor) -> Tensor:
    """Penalty ``√(1 + u²) − 1`` of u = log(factor / center), shape as the input; in images × nats.

    It is quadratic near the center, and linear far from it. So a factor that is far from the center, such
    as the one that logits of an unknown scale need, is held back by a constant force only.

    Example:
        >>> [round(float(value), 2) for value in log_prior(torch.tensor([0.0, 0.1, 10.0]))]
        [0.0, 0.0, 9.05]
    """
    return (1 + log_ratio.square()).sqrt() - 1


def fit_multipliers(
    logits: Sequence[Tensor], labels_N: Tensor, centers: Sequence[float] | None = None
) -> tuple[float, ...]:
    """Positive factors w that minimize ``mean −log softmax(Σ_m w_m z_m)[y] + (k/N) Σ_m prior(log w_m/c_m)``.

    The prior is `log_prior`, with k = `PRIOR_IMAGES`. Newton steps in log w with backtracking, in float64,
    start from the centers and from the best of a grid; the lower of both minima is taken. Logits that are
    equal within each image have no information; their factor is 0.

    Args:
        logits: logits or log-probabilities (N, C) of each teacher.
        labels_N: the labels of the N images.
        centers: the center c of each factor, > 0; 1 if not given.

    Example:
        >>> right_NC = torch.tensor([[2.0, 0.0], [0.0, 2.0], [2.0, 0.0]]).repeat(9999, 1)
        >>> labels_N, flat_NC = torch.tensor([0, 1, 1]).repeat(9999), torch.zeros(29997, 2)
        >>> multipliers = fit_multipliers([right_NC, flat_NC], labels_N)
        >>> [round(w, 2) for w in multipliers]  # right on 2 of 3 images: softmax(w · 2) = 2/3
        [0.35, 0.0]
        >>> fit_multipliers([right_NC[:2]], labels_N[:2])[0] < 1.5  # two images, both right
        True
    """
    stack_MNC = torch.stack([z_NC.double() for z_NC in logits])
    largest_M = stack_MNC.abs().amax(dim=(1, 2))
    # Centering changes no probability and improves the condition number of the Hessian.
    stack_MNC = stack_MNC - stack_MNC.mean(dim=2, keepdim=True)
    informative_M = stack_MNC.square().mean(dim=(1, 2)).sqrt() > FLAT * largest_M
    if not informative_M.any():
        return (0.0,) * len(logits)
    centers_M = torch.tensor(centers or (1.0,) * len(logits), dtype=torch.float64)
    assert bool((centers_M > 0).all())
    factors_M = torch.zeros_like(centers_M)
    stack_KNC, centers_K = stack_MNC[informative_M], centers_M[informative_M]
    factors_M[informative_M] = centers_K * _minimized(stack_KNC * centers_K[:, None, None], labels_N).exp()
    return tuple(factors_M.tolist())


def _minimized(stack_MNC: Tensor, labels_N: Tensor) -> Tensor:
    """The logarithms u (M) of the factors, for logits that are multiplied by the centers."""
    strength = PRIOR_IMAGES / len(labels_N)

    def objective(u_M: Tensor) -> float:
        fused_NC = torch.einsum("m,mnc->nc", u_M.exp(), stack_MNC)
        return float(functional.cross_entropy(fused_NC, labels_N) + strength * log_prior(u_M).sum())

    # The objective is not convex in log w: it is flat far below the minimum, where a descent could stay,
    # and the best point of the grid can lie above another minimum than the lowest.
    centers_M = torch.zeros(len(stack_MNC), dtype=torch.float64)
    starts = (_best_of_grid(centers_M, objective), centers_M)
    ends = [_descended(start_M, objective, stack_MNC, labels_N, strength) for start_M in starts]
    return min(ends, key=objective)


def _best_of_grid(u_M: Tensor, objective: Callable[[Tensor], float]) -> Tensor:
    for m in range(len(u_M)):
        tried = [u_M.index_fill(0, torch.tensor(m), start) for start in STARTS]
        u_M = min(tried, key=objective)
    return u_M


def _descended(
    u_M: Tensor,
    objective: Callable[[Tensor], float],
    stack_MNC: Tensor,
    labels_N: Tensor,
    strength: float,
) -> Tensor:
    """The end of Newton steps from u, each halved until it gains something."""
    before = objective(u_M)
    for _ in range(NEWTON_STEPS):
        step_M, gain = _newton_step(u_M, stack_MNC, labels_N, strength)
        if gain < LEAST_GAIN:
            break
        size = min(1.0, 2.0 / float(step_M.abs().max()))  # no factor changes by more than e² at once
        after = objective(u_M - size * step_M)
        while after >= before and size > LEAST_SIZE:
            size /= 2
            after = objective(u_M - size * step_M)
        if after >= before:
            break
        u_M, before = u_M - size * step_M, after
    return u_M


def _newton_step(u_M: Tensor, stack_MNC: Tensor, labels_N: Tensor, strength: float) -> tuple[Tensor, float]:
    """The step to subtract from u, and the gain of the objective that it predicts."""
    factors_M = u_M.exp()
    gradient_M, hessian_MM = derivatives(factors_M, stack_MNC, labels_N)
    root_M = (1 + u_M.square()).sqrt()
    slope_M = factors_M * gradient_M + strength * u_M / root_M
    curved_MM = factors_M[:, None] * hessian_MM * factors_M
    exact_MM = curved_MM + torch.diag(factors_M * gradient_M + strength / root_M**3)
    factor_MM, failed = torch.linalg.cholesky_ex(exact_MM)
    if failed:
        # An upper bound of the curvature, which is positive, where the objective is not convex in log w.
        bound_M = (factors_M * gradient_M).clamp_min(0) + strength / root_M
        factor_MM, failed = torch.linalg.cholesky_ex(curved_MM + torch.diag(bound_M))
        if failed:
            # Rounding errors of huge logits. A diagonal of row sums is an upper bound without any.
            factor_MM = torch.diag((curved_MM.abs().sum(dim=1) + bound_M).sqrt())
    step_M = torch.cholesky_solve(slope_M[:, None], factor_MM)[:, 0]
    return step_M, float(slope_M @ step_M) / 2


def derivatives(factors_M: Tensor, stack_MNC: Tensor, labels_N: Tensor) -> tuple[Tensor, Tensor]:
    """Gradient (M) and Hessian (M, M) of the mean NLL of ``softmax(Σ_m w_m z_m)`` with respect to w.

    They are ``E[z̄ − z_y]`` and the mean covariance of z under the softmax.

    Args:
        factors_M: the factors w.
        stack_MNC: the logits z of each teacher.
        labels_N: the labels of the images.

    Example:
        >>> z_MNC = torch.tensor([[[2.0, 0.0]]], dtype=torch.float64)
        >>> gradient_M, hessian_MM = derivatives(torch.zeros(1).double(), z_MNC, torch.tensor([0]))
        >>> gradient_M.tolist(), round(float(hessian_MM), 6)  # mean 1, truth 2; variance 1
        ([-1.0], 1.0)
    """
    probs_NC = torch.einsum("m,mnc->nc", factors_M, stack_MNC).softmax(dim=1)
    mean_MN = torch.einsum("nc,mnc->mn", probs_NC, stack_MNC)
    truth_MN = stack_MNC[:, torch.arange(len(labels_N)), labels_N]
    gradient_M = (mean_MN - truth_MN).mean(dim=1)
    # With rows √p·z the second moment is a single matrix product.
    rooted_MP = (probs_NC.sqrt() * stack_MNC).flatten(1)
    hessian_MM = (rooted_MP @ rooted_MP.T - mean_MN @ mean_MN.T) / len(labels_N)
    return gradient_M, hessian_MM
