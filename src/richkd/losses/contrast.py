"""Contrastive representation distillation: tell an image's own target from those of other classes.

Student and target each have a memory bank with one unit-norm row for every training image. A step compares
an embedding with K negative rows of the other side's bank. Gathering those rows would build B × K × D
numbers (537 MB at 64 × 16384 × 128, in float32); here the whole bank is scored by one matrix product
(B × N), from which the few scores that count are gathered. Everything stays in log space: dot/τ spans ±14
at τ = 0.07, so its exponential loses digits that the loss needs, and overflows for a smaller τ.

Source: Tian, Krishnan and Isola, "Contrastive representation distillation", ICLR 2020, equations 11 to 18,
with the normalizer estimated once, as in memory-bank NCE (Wu et al., CVPR 2018).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from richkd.core.numerics import at_least_fp32, check_temperature


def bank_log_scores(v_BD: Tensor, bank_ND: Tensor, rows_BK: Tensor, temperature: float) -> Tensor:
    """Log scores bank[rows]·v/τ (B × K) of each embedding against its own choice of bank rows.

    ``rows_BK`` holds int64 row numbers. The bank receives no gradient, and must stay unchanged until the
    gradient of ``v_BD`` is computed. float32 or higher; under autocast the product runs in its dtype,
    which leaves an error of 2⁻⁸·|log score| on each score, and column 0, the positive, stays exact.

    Raises:
        ConfigError: where the temperature is not a positive finite number.
    """
    check_temperature(temperature)
    dots_BN = _products(v_BD, bank_ND.detach(), temperature)
    scores_BK = dots_BN.gather(1, rows_BK).to(at_least_fp32(v_BD).dtype)
    if dots_BN.dtype == scores_BK.dtype:
        return scores_BK
    exact_B1 = _one_each(v_BD, bank_ND.detach()[rows_BK[:, 0]], temperature)
    return torch.cat([exact_B1, scores_BK[:, 1:]], dim=1)


def shared_log_scores(
    v_BD: Tensor, positive_BD: Tensor, rows_KD: Tensor, excluded_BK: Tensor, temperature: float
) -> Tensor:
    """Log scores (B × (K+1)) of each embedding against its positive and against rows shared by the batch.

    Column 0 is ``positive_BD·v/τ``. Rows that ``excluded_BK`` marks as no negatives of an image score −∞.
    Neither positives nor rows receive a gradient. Precision as in `bank_log_scores`.

    Raises:
        ConfigError: where the temperature is not a positive finite number.
    """
    check_temperature(temperature)
    scores_BK = _products(v_BD, rows_KD.detach(), temperature).to(at_least_fp32(v_BD).dtype)
    exact_B1 = _one_each(v_BD, positive_BD.detach(), temperature)
    return torch.cat([exact_B1, scores_BK.masked_fill(excluded_BK, -math.inf)], dim=1)


def bank_scores(v_BD: Tensor, bank_ND: Tensor, rows_BK: Tensor, temperature: float) -> Tensor:
    """Scores exp(bank[rows]·v/τ) (B × K), as the paper writes them; see `bank_log_scores`."""
    return bank_log_scores(v_BD, bank_ND, rows_BK, temperature).exp()


def _products(v_BD: Tensor, rows_ND: Tensor, temperature: float) -> Tensor:
    device = v_BD.device.type
    half = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
    with torch.autocast(device, enabled=False):
        v_BD = at_least_fp32(v_BD) / temperature
        dtype = half or v_BD.dtype
        return v_BD.to(dtype) @ rows_ND.to(dtype).T


def _one_each(v_BD: Tensor, row_BD: Tensor, temperature: float) -> Tensor:
    v_BD = at_least_fp32(v_BD)
    return (v_BD * row_BD.to(v_BD.dtype)).sum(dim=1, keepdim=True) / temperature


def estimate_log_normalizer(log_scores_BK: Tensor, images: int) -> Tensor:
    """log Z of the NCE distribution P = score/Z over a bank of ``images`` rows: log(mean(score)·N).

    A scalar without gradient, estimated once on the first batch and then kept. Scores of −∞ are none.
    """
    log_scores_BK = log_scores_BK.detach()
    scored = (log_scores_BK > -math.inf).sum().to(log_scores_BK.dtype)
    return torch.logsumexp(log_scores_BK.flatten(), dim=0) + math.log(images) - scored.log()


def estimate_normalizer(scores_BK: Tensor, images: int) -> Tensor:
    """Z = mean(score)·N, for scores as the paper writes them; see `estimate_log_normalizer`."""
    return scores_BK.detach().mean() * images


def nce_loss(
    log_scores_BK1: Tensor, log_normalizer: Tensor | float, images: int, shares_B: Tensor | None = None
) -> Tensor:
    """Noise-contrastive loss, in nats, of log scores (B × (K+1)) whose column 0 is the positive.

    With P = score/Z, and c = K/N for noise that is uniform over N ``images``:
    −mean_B [ log P_0/(P_0 + c) + Σ_k log c/(P_k + c) ]. Both terms are log-sigmoids of ±(log P − log c), so
    neither P nor P + c is ever formed, and no score is too small or too large. Where some of the K scores
    are −∞ and count for nothing, ``shares_B`` is the share of them that count, and the sum over the others
    is divided by it, which leaves its expectation that of K negatives.
    """
    negatives = log_scores_BK1.shape[1] - 1
    assert negatives > 0, "column 0 is the positive; at least one negative must follow"
    margin_BK1 = at_least_fp32(log_scores_BK1) - log_normalizer - math.log(negatives / images)
    positive_B = F.logsigmoid(margin_BK1[:, 0])
    negative_B = F.logsigmoid(-margin_BK1[:, 1:]).sum(dim=1)
    if shares_B is not None:
        negative_B = negative_B / shares_B
    return -(positive_B + negative_B).mean()


def log_normalizers_of(scores: tuple[Tensor, Tensor], images: int) -> Tensor:
    """Both directions' log Z, shape (2), estimated from the first batch's log scores."""
    return torch.stack([estimate_log_normalizer(log_scores_BK1, images) for log_scores_BK1 in scores])


def nce_both_ways(
    scores: tuple[Tensor, Tensor], log_normalizers: Tensor, images: int, shares_B: Tensor | None = None
) -> Tensor:
    """The NCE losses of student against targets and of target against students, added up."""
    student_BK1, target_BK1 = scores
    return nce_loss(student_BK1, log_normalizers[0], images, shares_B) + nce_loss(
        target_BK1, log_normalizers[1], images, shares_B
    )


def both_bank_log_scores(
    student_BD: Tensor,
    target_BD: Tensor,
    student_bank_ND: Tensor,
    target_bank_ND: Tensor,
    rows_BK1: Tensor,
    temperature: float,
) -> tuple[Tensor, Tensor]:
    """`bank_log_scores` of student against target bank, and of target against student bank."""
    return (
        bank_log_scores(student_BD, target_bank_ND, rows_BK1, temperature),
        bank_log_scores(target_BD, student_bank_ND, rows_BK1, temperature),
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
    """The feature-matching term of RichKD: NCE loss of student against target bank, plus the reverse.

    ``student_BD`` and ``target_BD`` are unit-norm embeddings, ``target_BD`` the fused one; both receive
    gradients, since both heads are trained, and the banks receive none. ``rows_BK1[:, 0]`` is each image's
    own row, the other K columns are rows of other classes (`negative_rows`). ``log_normalizers`` holds
    log Z of student against target bank, then of target against student bank
    (`log_normalizers_of`). Source: CRD (Tian et al. 2020, equations 17 and 18) in both directions.

    Raises:
        ConfigError: where the temperature is not a positive finite number.
    """
    scores = both_bank_log_scores(
        student_BD, target_BD, student_bank_ND, target_bank_ND, rows_BK1, temperature
    )
    return nce_both_ways(scores, log_normalizers, len(target_bank_ND))
