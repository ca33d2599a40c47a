"""Fit the weights of the teachers: minimize the fused negative log-likelihood (NLL) on held-out images.

Held-out images are images that no teacher was trained on. On its own training images a teacher looks better
than it is. All fits run in float64 and are deterministic. Every fit has a prior, whose center is the fusion
that is not fitted (each teacher's share). Its influence is that of a few images, so it decides if there are
few held-out images, and vanishes if there are many.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from richkd.fusion.mixing import Gate, LinearPool, LogPool, Mixing, PerClass, sureness
from richkd.fusion.shares import equal_shares
from richkd.metrics.multipliers import FLAT, PRIOR_IMAGES, fit_multipliers, log_prior

# The share of each teacher in a fusion that is not fitted; None: equal shares.
Shares = tuple[float, ...] | None

EM_STEPS = 200
LBFGS_STEPS = 60
# Variances of the normal priors on a class's log-weight (around the shared one) and on the slope of a gate.
# The priors keep estimates from few images close to the estimate from all images.
CLASS_VARIANCE, SLOPE_VARIANCE = 0.25, 4.0


def nll_of(mixing: Mixing, logs: Sequence[Tensor], labels_N: Tensor) -> Tensor:
    """NLL of the fused logits for each image, shape (N), in nats.

    Example:
        >>> logs = [torch.tensor([[0.5, 0.5], [0.9, 0.1]]).log()]
        >>> [round(nll, 3) for nll in nll_of(LogPool((1.0,)), logs, torch.tensor([0, 0])).tolist()]
        [0.693, 0.105]
    """
    return functional.cross_entropy(mixing(logs), labels_N, reduction="none")


def fit_log_pool(logs: Sequence[Tensor], labels_N: Tensor, shares: Shares = None) -> LogPool:
    """Fit a logarithmic pool; see `fit_multipliers`. The centers of the weights are the shares.

    Example:
        >>> a_NC = torch.tensor([[0.9, 0.1], [0.1, 0.9], [0.9, 0.1]]).log().repeat(9999, 1)
        >>> pool = fit_log_pool([a_NC, a_NC], torch.tensor([0, 1, 1]).repeat(9999))
        >>> [round(w, 2) for w in pool.weights]  # equal teachers share; right on 2 of 3: log 2 / log 9 in all
        [0.16, 0.16]
    """
    return LogPool(fit_multipliers(logs, labels_N, shares or equal_shares(len(logs))))


def fit_simplex(logs: Sequence[Tensor], labels_N: Tensor, shares: Shares = None) -> LogPool:
    """Fit a logarithmic pool whose weights w = softmax(θ) sum to one.

    Minimizes ``NLL − (k/N) Σ_m s_m log w_m`` by L-BFGS, with shares s and k = `PRIOR_IMAGES`.

    Example:
        >>> a_NC = torch.tensor([[0.8, 0.2], [0.4, 0.6]]).log().repeat(1000, 1)
        >>> pool = fit_simplex([a_NC, a_NC.flip(1)], torch.tensor([0, 1]).repeat(1000))
        >>> [round(w, 2) for w in pool.weights]
        [0.99, 0.01]
    """
    stack_MNC = torch.stack([log_NC.double() for log_NC in logs])
    prior_M = _prior_counts(shares, len(logs)) / len(labels_N)

    def loss(theta_M: Tensor) -> Tensor:
        fused_NC = torch.einsum("m,mnc->nc", theta_M.softmax(0), stack_MNC)
        return functional.cross_entropy(fused_NC, labels_N) - prior_M @ theta_M.log_softmax(0)

    return LogPool(_numbers(argmin_lbfgs(loss, torch.zeros(len(logs), dtype=torch.float64)).softmax(0)))


def fit_linear_pool(logs: Sequence[Tensor], labels_N: Tensor, shares: Shares = None) -> LinearPool:
    """Fit a linear pool by expectation maximization.

    Minimizes ``NLL − (k/N) Σ_m s_m log w_m`` with shares s and k = `PRIOR_IMAGES`: the prior counts as k
    images, of which each teacher explains its share. There are no other local optima.

    Example:
        >>> a_NC = torch.tensor([[0.9, 0.1], [0.5, 0.5]]).log()
        >>> b_NC = torch.tensor([[0.5, 0.5], [0.1, 0.9]]).log()
        >>> [round(w, 2) for w in fit_linear_pool([a_NC, b_NC], torch.tensor([0, 1])).weights]
        [0.5, 0.5]
    """
    truth_MN = torch.stack([log_NC.double().gather(1, labels_N[:, None])[:, 0] for log_NC in logs])
    prior_M = _prior_counts(shares, len(logs))
    weights_M = prior_M / PRIOR_IMAGES
    for _ in range(EM_STEPS):
        explained_M = (weights_M.log()[:, None] + truth_MN).softmax(dim=0).sum(dim=1)
        weights_M = (explained_M + prior_M) / (len(labels_N) + PRIOR_IMAGES)
    return LinearPool(_numbers(weights_M))


def fit_per_class(logs: Sequence[Tensor], labels_N: Tensor, shares: Shares = None) -> PerClass:
    """Fit a logarithmic pool with weights per class, ``w_mc = w_m · exp d_mc``.

    The shared weights w_m are fitted first (`fit_log_pool`). Then d minimizes ``NLL + Σ d² / (2 v N)``, a
    normal prior of variance v = `CLASS_VARIANCE`: a class with few images keeps weights close to the shared
    ones.

    Example:
        >>> labels_N = torch.tensor([0, 0, 0, 1]).repeat(10)
        >>> log_NC = torch.tensor([[0.8, 0.2], [0.3, 0.7], [0.3, 0.7], [0.1, 0.9]]).log().repeat(10, 1)
        >>> (weights_C,) = fit_per_class([log_NC], labels_N).weights
        >>> weights_C[0] < weights_C[1]  # a weight lowers ℓ ≤ 0: class 0, underestimated, gains
        True
    """
    shared = fit_log_pool(logs, labels_N, shares).weights
    stack_MNC = torch.stack([log_NC.double() for log_NC in logs])
    shared_M1 = torch.tensor(shared, dtype=torch.float64)[:, None]

    def loss(d_MC: Tensor) -> Tensor:
        fused_NC = torch.einsum("mc,mnc->nc", shared_M1 * d_MC.exp(), stack_MNC)
        prior = d_MC.square().sum() / (2 * CLASS_VARIANCE * len(labels_N))
        return functional.cross_entropy(fused_NC, labels_N) + prior

    start_MC = torch.zeros(len(logs), stack_MNC.shape[2], dtype=torch.float64)
    weights_MC = shared_M1 * argmin_lbfgs(loss, start_MC).exp()
    return PerClass(tuple(map(_numbers, weights_MC)))


def fit_gate(logs: Sequence[Tensor], labels_N: Tensor, shares: Shares = None) -> Gate:
    """Fit the weights and slopes of a gate.

    The start is the fitted logarithmic pool, which is a gate with slopes of zero. The weights keep its
    prior; the slopes b have a normal prior: ``Σ b² / (2 v N)`` with v = `SLOPE_VARIANCE` is added.

    Example:
        >>> log_NC = torch.tensor([[0.9, 0.1], [0.4, 0.6]]).log().repeat(20, 1)
        >>> gate = fit_gate([log_NC], torch.zeros(40, dtype=torch.int64))
        >>> gate.slopes[0] > 0  # the teacher is right only on the images it is confident about
        True
    """
    shares = shares or equal_shares(len(logs))
    shared = fit_log_pool(logs, labels_N, shares).weights
    stack_MNC = torch.stack([log_NC.double() for log_NC in logs])
    sureness_MN = torch.stack([sureness(log_NC) for log_NC in stack_MNC]) - 0.5
    shared_M = torch.tensor(shared, dtype=torch.float64)
    # A teacher without information has no weight, and no prior.
    ratio_M = (shared_M / torch.tensor(shares, dtype=torch.float64)).masked_fill(shared_M == 0, 1).log()

    def loss(ab_2M: Tensor) -> Tensor:
        weights_MN = (shared_M * ab_2M[0].exp())[:, None] * torch.exp(ab_2M[1][:, None] * sureness_MN)
        fused_NC = torch.einsum("mn,mnc->nc", weights_MN, stack_MNC)
        prior = PRIOR_IMAGES * log_prior(ratio_M + ab_2M[0]).sum()
        prior = prior + ab_2M[1].square().sum() / (2 * SLOPE_VARIANCE)
        return functional.cross_entropy(fused_NC, labels_N) + prior / len(labels_N)

    a_M, b_M = argmin_lbfgs(loss, torch.zeros(2, len(logs), dtype=torch.float64))
    return Gate(_numbers(shared_M * a_M.exp()), _numbers(b_M))


def fit_inverse_temperature(logits_NC: Tensor, target_NC: Tensor) -> float:
    """The inverse temperature β ≥ 0 that brings ``softmax(β z)`` closest to the target probabilities.

    Minimizes the mean KL divergence, which is convex in β. Returns 0 if the logits are constant per image.

    Example:
        >>> logits_NC = torch.tensor([[1.0, 0.0], [0.0, 2.0]], dtype=torch.float64)
        >>> round(fit_inverse_temperature(logits_NC, (3 * logits_NC).softmax(dim=1)), 4)
        3.0
    """
    spread = float((logits_NC - logits_NC.mean(dim=1, keepdim=True)).std())
    if spread <= FLAT * float(logits_NC.abs().max()):
        return 0.0
    logits_NC = logits_NC / spread

    def loss(log_beta: Tensor) -> Tensor:
        return functional.cross_entropy(log_beta.exp() * logits_NC, target_NC)

    log_beta = argmin_lbfgs(loss, torch.zeros((), dtype=torch.float64))
    return float(log_beta.exp()) / spread


def argmin_lbfgs(loss: Callable[[Tensor], Tensor], start: Tensor) -> Tensor:
    """Minimize a smooth loss by L-BFGS from ``start``; returns ``start`` if the search becomes non-finite.

    Example:
        >>> minimum = argmin_lbfgs(lambda x: (x - 3).square().sum(), torch.zeros(2, dtype=torch.float64))
        >>> [round(x, 6) for x in minimum.tolist()]
        [3.0, 3.0]
    """
    point = start.clone().requires_grad_()
    optimizer = torch.optim.LBFGS([point], max_iter=LBFGS_STEPS, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = loss(point)
        value.backward()  # type: ignore[no-untyped-call]
        return value

    with torch.enable_grad():
        optimizer.step(closure)  # type: ignore[no-untyped-call]
    return point.detach() if bool(point.isfinite().all()) else start


def _prior_counts(shares: Shares, num_teachers: int) -> Tensor:
    """How many images of the prior each teacher explains, shape (M)."""
    return PRIOR_IMAGES * torch.tensor(shares or equal_shares(num_teachers), dtype=torch.float64)


def _numbers(values: Tensor) -> tuple[float, ...]:
    return tuple(float(value) for value in values)
