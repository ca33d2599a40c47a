"""Contrastive representation distillation: tell an image's own target from those of other classes.

Student and target each have a memory bank with one unit-norm row for every training image. A step compares
an embedding with K negative rows of the other side's bank. Gathering those rows would build B × K × D
numbers (537 MB at 64 × 16384 × 128, in float32); here the whole bank is scored by one matrix product
(B × N), from which the few scores that count are gathered. Everything stays in log space: dot/τ spans ±14
at τ = 0.07, so its exponential loses digits that the loss needs, and overflows for a smaller τ.

Source: Tian, Krishnan and Isola, "Contrastive representation distillation", ICLR 2020, equations 11 to 18,
with the normaliser estimated once, as in memory-bank NCE (Wu et al., CVPR 2018).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from richkd.errors import ConfigError, DataError
from richkd.losses.features import normalised
from richkd.losses.logits import at_least_fp32, check_temperature
from richkd.seeds import mix_seed


def bank_log_scores(v_BD: Tensor, bank_ND: Tensor, rows_BK: Tensor, temperature: float) -> Tensor:
    """Log scores bank[rows]·v/τ (B × K) of each embedding against its own choice of bank rows.

    ``rows_BK`` holds int64 row numbers. Computed in float32 or higher, also under autocast. The bank
    receives no gradient, and must stay unchanged until the gradient of ``v_BD`` is computed.

    Raises:
        ConfigError: where the temperature is not a positive finite number.
    """
    check_temperature(temperature)
    # Autocast would run the product in bfloat16: two digits, which 1/τ = 14 then multiplies.
    with torch.autocast(v_BD.device.type, enabled=False):
        v_BD = at_least_fp32(v_BD) / temperature
        dots_BN = v_BD @ bank_ND.detach().to(v_BD.dtype).T
        return dots_BN.gather(1, rows_BK)


def bank_scores(v_BD: Tensor, bank_ND: Tensor, rows_BK: Tensor, temperature: float) -> Tensor:
    """Scores exp(bank[rows]·v/τ) (B × K), as the paper writes them; see `bank_log_scores`."""
    return bank_log_scores(v_BD, bank_ND, rows_BK, temperature).exp()


def estimate_log_normaliser(log_scores_BK: Tensor, images: int) -> Tensor:
    """log Z of the NCE distribution P = score/Z over a bank of ``images`` rows: log(mean(score)·N).

    A scalar without gradient, estimated once on the first batch and then kept.
    """
    log_sum = torch.logsumexp(log_scores_BK.detach().flatten(), dim=0)
    return log_sum + math.log(images / log_scores_BK.numel())


def estimate_normaliser(scores_BK: Tensor, images: int) -> Tensor:
    """Z = mean(score)·N, for scores as the paper writes them; see `estimate_log_normaliser`."""
    return scores_BK.detach().mean() * images


def nce_loss(log_scores_BK1: Tensor, log_normaliser: Tensor | float, images: int) -> Tensor:
    """Noise-contrastive loss, in nats, of log scores (B × (K+1)) whose column 0 is the positive.

    With P = score/Z, and c = K/N for noise that is uniform over N ``images``:
    −mean_B [ log P_0/(P_0 + c) + Σ_k log c/(P_k + c) ]. Both terms are log-sigmoids of ±(log P − log c), so
    neither P nor P + c is ever formed, and no score is too small or too large.
    """
    negatives = log_scores_BK1.shape[1] - 1
    assert negatives > 0, "column 0 is the positive; at least one negative must follow"
    margin_BK1 = at_least_fp32(log_scores_BK1) - log_normaliser - math.log(negatives / images)
    positive_B = F.logsigmoid(margin_BK1[:, 0])
    negative_B = F.logsigmoid(-margin_BK1[:, 1:]).sum(dim=1)
    return -(positive_B + negative_B).mean()


def contrast_log_normalisers(
    student_BD: Tensor,
    target_BD: Tensor,
    student_bank_ND: Tensor,
    target_bank_ND: Tensor,
    rows_BK1: Tensor,
    temperature: float,
) -> Tensor:
    """Both directions' log Z, shape (2), estimated from the first batch, in `contrast_loss`'s order."""
    with torch.no_grad():
        return torch.stack(
            [
                estimate_log_normaliser(bank_log_scores(v_BD, bank_ND, rows_BK1, temperature), len(bank_ND))
                for v_BD, bank_ND in ((student_BD, target_bank_ND), (target_BD, student_bank_ND))
            ]
        )


def contrast_loss(
    student_BD: Tensor,
    target_BD: Tensor,
    student_bank_ND: Tensor,
    target_bank_ND: Tensor,
    rows_BK1: Tensor,
    log_normalisers: Tensor,
    temperature: float,
) -> Tensor:
    """The feature-matching term of RichKD: NCE loss of student against target bank, plus the reverse.

    ``student_BD`` and ``target_BD`` are unit-norm embeddings, ``target_BD`` the fused one; both receive
    gradients, since both heads are trained, and the banks receive none. ``rows_BK1[:, 0]`` is each image's
    own row, the other K columns are rows of other classes (`negative_rows`). ``log_normalisers`` holds
    log Z of student against target bank, then of target against student bank
    (`contrast_log_normalisers`). Source: CRD (Tian et al. 2020, equations 17 and 18) in both directions.

    Raises:
        ConfigError: where the temperature is not a positive finite number.
    """
    images = len(target_bank_ND)
    student_BK1 = bank_log_scores(student_BD, target_bank_ND, rows_BK1, temperature)
    target_BK1 = bank_log_scores(target_BD, student_bank_ND, rows_BK1, temperature)
    return nce_loss(student_BK1, log_normalisers[0], images) + nce_loss(
        target_BK1, log_normalisers[1], images
    )


def rows_by_class(labels_N: Tensor, classes: int) -> tuple[Tensor, Tensor, Tensor]:
    """Where each image's row lies in a bank that is sorted by class.

    Returns the row of each image (N; images of a class keep their order), and the first row (C) and the
    number of rows (C) of each class. Sorted rows make "a row of another class" arithmetic, without lists.

    Raises:
        DataError: where fewer than two classes have images, so that no negative exists.
    """
    sizes_C = torch.bincount(labels_N, minlength=classes)
    if int((sizes_C > 0).sum()) < 2:
        raise DataError(
            "Contrast needs images of at least two classes, since negatives come from other classes",
            got=f"{len(labels_N)} images, all of one class",
            fix="train on more classes, or use a method without the contrastive feature loss.",
        )
    order_N = torch.argsort(labels_N, stable=True)
    rows_N = torch.empty_like(order_N)
    rows_N[order_N] = torch.arange(len(labels_N), device=labels_N.device)
    return rows_N, sizes_C.cumsum(0) - sizes_C, sizes_C


def negative_rows(
    labels_B: Tensor, class_starts_C: Tensor, class_sizes_C: Tensor, draws_BK: Tensor
) -> Tensor:
    """Bank rows (B × K, int64) of other classes, uniform with replacement, from given random integers.

    For a bank sorted by class (`rows_by_class`): r = draw mod (N − n_y), and row = r, or r + n_y where
    r is at or beyond the first row of the image's class y, which skips exactly the rows of y.
    ``draws_BK`` holds integers from [0, 2⁶²) (`draw`); the bias of the remainder is below N/2⁶².
    """
    starts_B1 = class_starts_C[labels_B, None]
    sizes_B1 = class_sizes_C[labels_B, None]
    rows_BK = draws_BK % (class_sizes_C.sum() - sizes_B1)
    return rows_BK + (rows_BK >= starts_B1) * sizes_B1


def draw(seed: int, step: int, shape: tuple[int, ...], device: torch.device | str) -> Tensor:
    """Random integers from [0, 2⁶²) for the negatives of one step, a function of (seed, step) alone.

    CPU and GPU generators are different algorithms, so the numbers also depend on the kind of device.
    """
    generator = torch.Generator(device).manual_seed(mix_seed(seed, "negatives", step))
    return torch.randint(1 << 62, shape, generator=generator, device=device)


def initial_bank(images: int, width: int, seed: int) -> Tensor:
    """A bank (N × D, float32, CPU) before training: uniform in ±1/√(D/3), so that E‖row‖² = 1, as in CRD.

    A function of ``seed`` alone: give the two banks two seeds.
    """
    generator = torch.Generator().manual_seed(mix_seed(seed, "bank"))
    bound = 1.0 / math.sqrt(width / 3)
    return torch.empty(images, width).uniform_(-bound, bound, generator=generator)


@torch.no_grad()
def update_bank(bank_ND: Tensor, rows_B: Tensor, v_BD: Tensor, momentum: float) -> None:
    """Move the rows of a batch towards its embeddings, in place: row ← normalised(m·row + (1−m)·v).

    ``rows_B`` must not name a row twice. Call it after the backward pass, which still needs the old rows.

    Raises:
        ConfigError: where the momentum is outside [0, 1].
    """
    if not 0.0 <= momentum <= 1.0:
        raise ConfigError(
            "Argument 'momentum' must lie in [0, 1]",
            got=repr(momentum),
            fix="use 0.5, as CRD does; 0 keeps the newest embedding alone.",
        )
    moved_BD = momentum * at_least_fp32(bank_ND[rows_B]) + (1.0 - momentum) * at_least_fp32(v_BD)
    bank_ND[rows_B] = normalised(moved_BD).to(bank_ND.dtype)
