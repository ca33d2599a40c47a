"""Fit the weights of the teachers: minimize the fused negative log-likelihood (NLL) on held-out images.

Held-out images are images that no teacher was trained on. On its own training images a teacher looks better
than it is. All fits run in float64 and are deterministic. On the images of the fit, the fitted mixing is
never worse than the best teacher alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import Tensor
from torch.nn import functional

from richkd.fusion.mixing import Gate, LinearPool, LogPool, Mixing, PerClass, sureness
from richkd.fusion.scale import FLAT

M = TypeVar("M", bound=Mixing)

NEWTON_STEPS = 100
# In nats: a fit stops when the predicted gain of the next step is smaller.
LEAST_GAIN = 1e-13
EM_STEPS = 200
LBFGS_STEPS = 60
# Upper bound of a multiplier, for logits of standard deviation 1. On separable held-out images the best
# multiplier is infinite; beyond this bound the probabilities no longer change in float32.
MAX_MULTIPLIER = 100.0
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


def fit_multipliers(logits: Sequence[Tensor], labels_N: Tensor) -> tuple[float, ...]:
    """Non-negative multipliers that minimize the NLL: ``argmin_{w ≥ 0} mean −log softmax(Σ_m w_m z_m)[y]``.

    The problem is convex. It is solved by projected Newton steps with backtracking in float64. The start is
    the best single teacher, so the result is never worse than any teacher at its best temperature.

    Args:
        logits: each teacher's logits or log-probabilities (N, C).
        labels_N: the labels of the N images.

    Example:
        >>> right_NC = torch.tensor([[2.0, 0.0], [0.0, 2.0], [2.0, 0.0]])
        >>> flat_NC = torch.zeros(3, 2)
        >>> multipliers = fit_multipliers([right_NC, flat_NC], torch.tensor([0, 1, 1]))
        >>> [round(w, 3) for w in multipliers]  # right on 2 of 3 images: softmax(w · 2) = 2/3
        [0.347, 0.0]
    """
    stack_MNC = torch.stack([z_NC.double() for z_NC in logits])
    largest_M = stack_MNC.abs().amax(dim=(1, 2))
    # Centering changes no probability and improves the condition number of the Hessian.
    stack_MNC = stack_MNC - stack_MNC.mean(dim=2, keepdim=True)
    spread_M = stack_MNC.std(dim=(1, 2))
    # A teacher whose logits are equal within each image carries no information, only rounding errors, and
    # dividing by its spread would amplify them. Its multiplier is zero.
    informative_M = spread_M > FLAT * largest_M
    spread_M = spread_M.where(informative_M, 1.0)
    stack_MNC = stack_MNC * (informative_M / spread_M)[:, None, None]

    singles = [
        _solved(stack_MNC[m : m + 1], labels_N, torch.ones(1, dtype=torch.float64))
        for m in range(len(logits))
    ]
    best = min(range(len(logits)), key=lambda m: singles[m][1])
    best_M = torch.zeros(len(logits), dtype=torch.float64)
    best_M[best] = singles[best][0]
    if len(logits) > 1:
        best_M, _ = _solved(stack_MNC, labels_N, best_M)
    return tuple(float(value) for value in best_M * informative_M / spread_M)


def _solved(stack_MNC: Tensor, labels_N: Tensor, weights_M: Tensor) -> tuple[Tensor, float]:
    """Minimize the NLL over non-negative weights by projected Newton steps; returns weights and NLL."""

    def nll(weights_M: Tensor) -> float:
        fused_NC = torch.einsum("m,mnc->nc", weights_M, stack_MNC)
        return float(functional.cross_entropy(fused_NC, labels_N))

    before = nll(weights_M)
    for _ in range(NEWTON_STEPS):
        gradient_M, hessian_MM = _derivatives(weights_M, stack_MNC, labels_N)
        active_M = ~((weights_M <= 0) & (gradient_M > 0))
        if not active_M.any() or gradient_M[active_M].abs().max() < 1e-10:
            break
        step_M = torch.zeros_like(weights_M)
        ridge = 1e-9 * torch.eye(int(active_M.sum()), dtype=torch.float64)
        step_M[active_M] = torch.linalg.solve(hessian_MM[active_M][:, active_M] + ridge, gradient_M[active_M])
        # The predicted gain of the step is negligible.
        if float(gradient_M @ step_M) < LEAST_GAIN:
            break
        size = 1.0
        while size > 1e-8:
            trial_M = (weights_M - size * step_M).clamp(0, MAX_MULTIPLIER)
            after = nll(trial_M)
            if after < before:
                break
            size /= 2
        else:
            break
        weights_M, before = trial_M, after
    return weights_M, before


def fit_log_pool(logs: Sequence[Tensor], labels_N: Tensor) -> LogPool:
    """Fit a logarithmic pool with non-negative weights; see `fit_multipliers`.

    Example:
        >>> right_NC = torch.tensor([[0.9, 0.1], [0.1, 0.9], [0.9, 0.1]]).log()
        >>> wrong_NC = right_NC.flip(1)
        >>> pool = fit_log_pool([right_NC, wrong_NC], torch.tensor([0, 1, 1]))
        >>> [round(w, 3) for w in pool.weights]
        [0.315, 0.0]
    """
    return LogPool(fit_multipliers(logs, labels_N))


def fit_simplex(logs: Sequence[Tensor], labels_N: Tensor) -> LogPool:
    """Fit a logarithmic pool whose weights sum to one: ``w = softmax(θ)``, minimized by L-BFGS.

    Example:
        >>> a_NC = torch.tensor([[0.8, 0.2], [0.4, 0.6]]).log()
        >>> pool = fit_simplex([a_NC, a_NC.flip(1)], torch.tensor([0, 1]))
        >>> [round(w, 2) for w in pool.weights]
        [1.0, 0.0]
    """
    stack_MNC = torch.stack([log_NC.double() for log_NC in logs])

    def loss(theta_M: Tensor) -> Tensor:
        return functional.cross_entropy(torch.einsum("m,mnc->nc", theta_M.softmax(0), stack_MNC), labels_N)

    weights_M = argmin_lbfgs(loss, torch.zeros(len(logs), dtype=torch.float64)).softmax(0)
    return _best(
        [LogPool(_numbers(weights_M)), *(LogPool(one) for one in _corners(len(logs)))], logs, labels_N
    )


def fit_linear_pool(logs: Sequence[Tensor], labels_N: Tensor) -> LinearPool:
    """Fit a linear pool by expectation maximization, starting from equal weights.

    The log-likelihood is concave in the weights, so there are no other local optima.

    Example:
        >>> a_NC = torch.tensor([[0.9, 0.1], [0.5, 0.5]]).log()
        >>> b_NC = torch.tensor([[0.5, 0.5], [0.1, 0.9]]).log()
        >>> [round(w, 2) for w in fit_linear_pool([a_NC, b_NC], torch.tensor([0, 1])).weights]
        [0.5, 0.5]
    """
    truth_MN = torch.stack([log_NC.double().gather(1, labels_N[:, None])[:, 0] for log_NC in logs])
    weights_M = torch.full((len(logs),), 1 / len(logs), dtype=torch.float64)
    for _ in range(EM_STEPS):
        weights_M = (weights_M.log()[:, None] + truth_MN).softmax(dim=0).mean(dim=1)
    corners = [LinearPool(one) for one in _corners(len(logs))]
    return _best([LinearPool(_numbers(weights_M)), *corners], logs, labels_N)


def fit_per_class(logs: Sequence[Tensor], labels_N: Tensor) -> PerClass:
    """Fit a logarithmic pool with weights per class, ``w_mc = w_m · exp d_mc``.

    The shared weights w_m are fitted first (`fit_multipliers`). Then d minimizes ``NLL + Σ d² / (2 v N)``, a
    normal prior of variance v = `CLASS_VARIANCE`: a class with few images keeps weights close to the shared
    ones. On the images of the fit the result is never worse than the shared weights.

    Example:
        >>> labels_N = torch.tensor([0, 0, 0, 1]).repeat(10)
        >>> log_NC = torch.tensor([[0.8, 0.2], [0.3, 0.7], [0.3, 0.7], [0.1, 0.9]]).log().repeat(10, 1)
        >>> (weights_C,) = fit_per_class([log_NC], labels_N).weights
        >>> weights_C[0] < weights_C[1]  # a weight lowers ℓ ≤ 0: class 0, underestimated, gains
        True
    """
    shared = fit_multipliers(logs, labels_N)
    stack_MNC = torch.stack([log_NC.double() for log_NC in logs])
    shared_M1 = torch.tensor(shared, dtype=torch.float64)[:, None]

    def loss(d_MC: Tensor) -> Tensor:
        fused_NC = torch.einsum("mc,mnc->nc", shared_M1 * d_MC.exp(), stack_MNC)
        prior = d_MC.square().sum() / (2 * CLASS_VARIANCE * len(labels_N))
        return functional.cross_entropy(fused_NC, labels_N) + prior

    start_MC = torch.zeros(len(logs), stack_MNC.shape[2], dtype=torch.float64)
    weights_MC = shared_M1 * argmin_lbfgs(loss, start_MC).exp()
    same = PerClass(tuple((w,) * stack_MNC.shape[2] for w in shared))
    return _best([PerClass(tuple(map(_numbers, weights_MC))), same], logs, labels_N)


def fit_gate(logs: Sequence[Tensor], labels_N: Tensor) -> Gate:
    """Fit the weights and slopes of a gate: minimize ``NLL + Σ b² / (2 v N)`` with v = `SLOPE_VARIANCE`.

    The start is the fitted logarithmic pool, which is a gate with slopes of zero.

    Example:
        >>> log_NC = torch.tensor([[0.9, 0.1], [0.4, 0.6]]).log().repeat(20, 1)
        >>> gate = fit_gate([log_NC], torch.zeros(40, dtype=torch.int64))
        >>> gate.slopes[0] > 0  # the teacher is right only on the images it is confident about
        True
    """
    shared = fit_multipliers(logs, labels_N)
    stack_MNC = torch.stack([log_NC.double() for log_NC in logs])
    sureness_MN = torch.stack([sureness(log_NC) for log_NC in stack_MNC]) - 0.5
    shared_M = torch.tensor(shared, dtype=torch.float64)

    def loss(ab_2M: Tensor) -> Tensor:
        weights_MN = (shared_M * ab_2M[0].exp())[:, None] * torch.exp(ab_2M[1][:, None] * sureness_MN)
        fused_NC = torch.einsum("mn,mnc->nc", weights_MN, stack_MNC)
        return functional.cross_entropy(fused_NC, labels_N) + ab_2M[1].square().sum() / (
            2 * SLOPE_VARIANCE * len(labels_N)
        )

    a_M, b_M = argmin_lbfgs(loss, torch.zeros(2, len(logs), dtype=torch.float64))
    fitted = Gate(_numbers(shared_M * a_M.exp()), _numbers(b_M))
    return _best([fitted, Gate(shared, (0.0,) * len(logs))], logs, labels_N)


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


def _best(candidates: Sequence[M], logs: Sequence[Tensor], labels_N: Tensor) -> M:
    exact = [log_NC.double() for log_NC in logs]
    return min(candidates, key=lambda mixing: float(nll_of(mixing, exact, labels_N).mean()))


def _corners(num_teachers: int) -> list[tuple[float, ...]]:
    return [tuple(float(m == k) for m in range(num_teachers)) for k in range(num_teachers)]


def _numbers(values: Tensor) -> tuple[float, ...]:
    return tuple(float(value) for value in values)


def _derivatives(weights_M: Tensor, stack_MNC: Tensor, labels_N: Tensor) -> tuple[Tensor, Tensor]:
    """Gradient and Hessian of the mean NLL: ``E[z̄ − z_y]`` and the mean covariance of z under the softmax."""
    probs_NC = torch.einsum("m,mnc->nc", weights_M, stack_MNC).softmax(dim=1)
    mean_MN = torch.einsum("nc,mnc->mn", probs_NC, stack_MNC)
    truth_MN = stack_MNC[:, torch.arange(len(labels_N)), labels_N]
    gradient_M = (mean_MN - truth_MN).mean(dim=1)
    # With rows √p·z the second moment is a single matrix product.
    rooted_MP = (probs_NC.sqrt() * stack_MNC).flatten(1)
    second_MM = rooted_MP @ rooted_MP.T / len(labels_N)
    return gradient_M, second_MM - mean_MN @ mean_MN.T / len(labels_N)
