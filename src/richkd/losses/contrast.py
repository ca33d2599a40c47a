"""Contrastive representation distillation (CRD): distinguish an image's target from those of other classes.

The student and the target each have a memory bank with one unit-norm row per training image. A step compares
each embedding with K negative rows of the other memory bank. Gathering these rows would create B × K × D
numbers (537 MB for 64 × 16384 × 128 in float32). Instead, one matrix product scores the whole bank (B × N),
and the required scores are gathered from the result. All computations stay in log space: dot/τ spans ±14 at
τ = 0.07, so its exponential loses digits that the loss needs, and overflows for a smaller τ.

Source: Tian, Krishnan and Isola, "Contrastive representation distillation", ICLR 2020, equations 11 to 18,
with the normalizer estimated once, as in memory-bank NCE (Wu et al., CVPR 2018).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from richkd.core.numerics import at_least_fp32, check_temperature
from richkd.losses.weighted import weighted_mean


def bank_log_scores(
    v_BD: Tensor, bank_ND: Tensor, rows_BK: Tensor, temperature: float, rounded_ND: Tensor | None = None
) -> Tensor:
    """Log scores bank[rows]·v/τ (B × K) of each embedding against its rows of the memory bank.

    Their exponentials are the scores of the CRD paper.

    The result is float32 or higher. Under autocast the matrix product runs in the autocast dtype; with
    bfloat16 the error of a score is up to 2⁻⁸·|log score|. Column 0, the positive, is always exact.

    Args:
        v_BD: embeddings; they receive a gradient.
        bank_ND: the memory bank; it receives no gradient and must not change before the backward pass.
        rows_BK: row indices (int64), the positive in column 0.
        temperature: τ > 0.
        rounded_ND: the bank in the dtype of the product (`product_dtype`), if it was converted before.

    Raises:
        ConfigError: the temperature is not a positive finite number.

    Example:
        >>> bank_ND = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
        >>> bank_log_scores(torch.tensor([[1.0, 0.0]]), bank_ND, torch.tensor([[0, 1]]), 0.5).tolist()
        [[2.0, 0.0]]
    """
    check_temperature(temperature)
    dots_BN = _products(v_BD, (bank_ND if rounded_ND is None else rounded_ND).detach(), temperature)
    scores_BK = dots_BN.gather(1, rows_BK).to(at_least_fp32(v_BD).dtype)
    if dots_BN.dtype == scores_BK.dtype:
        return scores_BK
    exact_B1 = _one_each(v_BD, bank_ND.detach()[rows_BK[:, 0]], temperature)
    return torch.cat([exact_B1, scores_BK[:, 1:]], dim=1)


def shared_log_scores(
    v_BD: Tensor, positive_BD: Tensor, rows_KD: Tensor, excluded_BK: Tensor, temperature: float
) -> Tensor:
    """Log scores (B × (K+1)) of each embedding against its positive and against rows shared by the batch.

    Column 0 is ``positive_BD·v/τ``; the other columns are ``rows_KD·v/τ``. The precision is that of
    `bank_log_scores`.

    Args:
        v_BD: embeddings; they receive a gradient.
        positive_BD: the positive of each image; no gradient.
        rows_KD: candidate negatives for all images of the batch; no gradient.
        excluded_BK: True where a row is not a negative of an image; its score is −∞.
        temperature: τ > 0.

    Raises:
        ConfigError: the temperature is not a positive finite number.

    Example:
        >>> v_BD, rows_KD = torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0], [1.0, 0.0]])
        >>> shared_log_scores(v_BD, v_BD, rows_KD, torch.tensor([[False, True]]), 0.5).tolist()
        [[2.0, 0.0, -inf]]
    """
    check_temperature(temperature)
    scores_BK = _products(v_BD, rows_KD.detach(), temperature).to(at_least_fp32(v_BD).dtype)
    exact_B1 = _one_each(v_BD, positive_BD.detach(), temperature)
    return torch.cat([exact_B1, scores_BK.masked_fill(excluded_BK, -math.inf)], dim=1)


def product_dtype(x: Tensor) -> torch.dtype:
    """The dtype in which scores are computed: that of autocast, otherwise float32 or higher.

    Example:
        >>> with torch.autocast("cpu", torch.bfloat16):
        ...     product_dtype(torch.zeros(1)) == torch.bfloat16
        True
        >>> product_dtype(torch.zeros(1)) == torch.float32
        True
    """
    device = x.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else at_least_fp32(x).dtype


def _products(v_BD: Tensor, rows_ND: Tensor, temperature: float) -> Tensor:
    dtype = product_dtype(v_BD)
    with torch.autocast(v_BD.device.type, enabled=False):
        v_BD = at_least_fp32(v_BD) / temperature
        return v_BD.to(dtype) @ rows_ND.to(dtype).T


def _one_each(v_BD: Tensor, row_BD: Tensor, temperature: float) -> Tensor:
    v_BD = at_least_fp32(v_BD)
    return (v_BD * row_BD.to(v_BD.dtype)).sum(dim=1, keepdim=True) / temperature


def estimate_log_normalizer(log_scores_BK: Tensor, images: int) -> Tensor:
    """log Z of the NCE distribution P = score/Z over a memory bank of N ``images``: log(mean(score)·N).

    The result is a scalar without gradient. It is estimated once, on the first batch, and then kept constant.
    Log scores of −∞ are excluded from the mean.

    Example:
        >>> log_scores_BK = torch.tensor([[1.0, 3.0, 0.0]]).log()  # mean of 1 and 3 is 2
        >>> round(float(estimate_log_normalizer(log_scores_BK, images=10).exp()), 4)
        20.0
    """
    log_scores_BK = log_scores_BK.detach()
    scored = (log_scores_BK > -math.inf).sum().to(log_scores_BK.dtype)
    return torch.logsumexp(log_scores_BK.flatten(), dim=0) + math.log(images) - scored.log()


def nce_loss(
    log_scores_BK1: Tensor,
    log_normalizer: Tensor | float,
    images: int,
    shares_B: Tensor | None = None,
    weight_B: Tensor | None = None,
) -> Tensor:
    """Noise-contrastive estimation (NCE) loss in nats; lower is better, at least 0.

    With P = score/Z, and c = K/N for noise that is uniform over N ``images``:
    −mean_B [ log P_0/(P_0 + c) + Σ_k log c/(P_k + c) ]. Both terms are log-sigmoids of ±(log P − log c).
    They are computed from the logarithms, so a very small or very large score cannot underflow or overflow.

    Args:
        log_scores_BK1: log scores (B × (K+1)) with the positive in column 0, K ≥ 1.
        log_normalizer: log Z.
        images: number of rows N of the memory bank.
        shares_B: fraction in (0, 1] of the K negatives of an image whose score is not −∞. The sum over the
            negatives is divided by it, so that its expected value equals that of K negatives. None: 1.
        weight_B: weight of each image's loss in the mean; 1 if None.

    Example:
        >>> log_scores_BK1 = torch.tensor([[0.0, 0.0]])  # P = 1/2 = c for N = 2, K = 1
        >>> round(float(nce_loss(log_scores_BK1, math.log(2), images=2)), 4)  # 2 ln 2
        1.3863
    """
    negatives = log_scores_BK1.shape[1] - 1
    assert negatives > 0, "column 0 is the positive; at least one negative must follow"
    margin_BK1 = at_least_fp32(log_scores_BK1) - log_normalizer - math.log(negatives / images)
    positive_B = F.logsigmoid(margin_BK1[:, 0])
    negative_B = F.logsigmoid(-margin_BK1[:, 1:]).sum(dim=1)
    if shares_B is not None:
        negative_B = negative_B / shares_B
    loss_B = -(positive_B + negative_B)
    return weighted_mean(loss_B, weight_B)


def log_normalizers_of(scores: tuple[Tensor, Tensor], images: int) -> Tensor:
    """log Z of both directions, shape (2), estimated from the log scores of the first batch.

    Example:
        >>> scores = (torch.zeros(1, 3), torch.zeros(1, 3))
        >>> log_normalizers_of(scores, images=10).exp().round().tolist()
        [10.0, 10.0]
    """
    return torch.stack([estimate_log_normalizer(log_scores_BK1, images) for log_scores_BK1 in scores])


def nce_both_ways(
    scores: tuple[Tensor, Tensor],
    log_normalizers: Tensor,
    images: int,
    shares_B: Tensor | None = None,
    weight_B: Tensor | None = None,
) -> Tensor:
    """The sum of the NCE losses of both directions: student against targets, and target against students.

    Args:
        scores: log scores of the two directions, each as for `nce_loss`.
        log_normalizers: log Z of the two directions, shape (2).
        images: number of rows of a memory bank.
        shares_B, weight_B: as for `nce_loss`.

    Example:
        >>> scores = (torch.zeros(1, 2), torch.zeros(1, 2))
        >>> round(float(nce_both_ways(scores, torch.tensor([2.0, 2.0]).log(), images=2)), 4)  # 4 ln 2
        2.7726
    """
    student_BK1, target_BK1 = scores
    return nce_loss(student_BK1, log_normalizers[0], images, shares_B, weight_B) + nce_loss(
        target_BK1, log_normalizers[1], images, shares_B, weight_B
    )


def both_bank_log_scores(
    student_BD: Tensor,
    target_BD: Tensor,
    student_bank_ND: Tensor,
    target_bank_ND: Tensor,
    rows_BK1: Tensor,
    temperature: float,
    rounded: tuple[Tensor, Tensor] | tuple[None, None] = (None, None),
) -> tuple[Tensor, Tensor]:
    """`bank_log_scores` of both directions: student against the target bank, target against the student bank.

    ``rounded`` are the banks of student and target in the dtype of the product, if converted before.

    Example:
        >>> v_BD, bank_ND = torch.tensor([[1.0, 0.0]]), torch.tensor([[1.0, 0.0], [0.0, 1.0]])
        >>> scores = both_bank_log_scores(v_BD, v_BD, bank_ND, -bank_ND, torch.tensor([[0, 1]]), 0.5)
        >>> [direction.tolist() for direction in scores]
        [[[-2.0, 0.0]], [[2.0, 0.0]]]
    """
    return (
        bank_log_scores(student_BD, target_bank_ND, rows_BK1, temperature, rounded[1]),
        bank_log_scores(target_BD, student_bank_ND, rows_BK1, temperature, rounded[0]),
    )


def contrast_loss(
    student_BD: Tensor,
    target_BD: Tensor,
    student_bank_ND: Tensor,
    target_bank_ND: Tensor,
    rows_BK1: Tensor,
    log_normalizers: Tensor,
    temperature: float,
) -> Tensor:
    """The feature loss of RichKD: NCE loss of the student against the target bank, plus the reverse.

    Source: CRD (Tian et al. 2020, equations 17 and 18), in both directions.

    Args:
        student_BD: unit-norm embeddings of the student; they receive a gradient.
        target_BD: fused unit-norm embeddings of the teachers; they receive a gradient, because the
            projection heads of the teachers are trained, too.
        student_bank_ND: memory bank of the student; no gradient.
        target_bank_ND: memory bank of the target; no gradient.
        rows_BK1: bank rows; column 0 is the row of the image, the other K columns are rows of other classes
            (`richkd.losses.negatives.negative_rows`).
        log_normalizers: log Z of student against target bank and of target against student bank, shape (2)
            (`log_normalizers_of`).
        temperature: τ > 0.

    Raises:
        ConfigError: the temperature is not a positive finite number.

    Example:
        >>> bank_ND, log_z = torch.eye(2), torch.zeros(2)
        >>> v_BD, rows_BK1 = torch.tensor([[1.0, 0.0]]), torch.tensor([[0, 1]])
        >>> right = contrast_loss(v_BD, v_BD, bank_ND, bank_ND, rows_BK1, log_z, 0.5)
        >>> wrong = contrast_loss(v_BD.flip(1), v_BD.flip(1), bank_ND, bank_ND, rows_BK1, log_z, 0.5)
        >>> bool(right < wrong)
        True
    """
    scores = both_bank_log_scores(
        student_BD, target_BD, student_bank_ND, target_bank_ND, rows_BK1, temperature
    )
    return nce_both_ways(scores, log_normalizers, len(target_bank_ND))
