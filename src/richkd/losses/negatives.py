"""Which bank rows an image is told apart from, and how banks begin and move.

Negatives are rows of other classes. Banks sorted by class make "a row of another class" arithmetic.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from richkd.core.errors import ConfigError, DataError
from richkd.core.numerics import at_least_fp32
from richkd.core.seeds import mix_seed
from richkd.losses.features import normalize


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

    For a bank sorted by class (`rows_by_class`): r = `below` (draw, N − n_y), and row = r, or r + n_y
    where r is at or beyond the first row of the image's class y, which skips exactly the rows of y.
    """
    starts_B1 = class_starts_C[labels_B, None]
    sizes_B1 = class_sizes_C[labels_B, None]
    rows_BK = below(draws_BK, class_sizes_C.sum() - sizes_B1)
    return torch.where(rows_BK >= starts_B1, rows_BK + sizes_B1, rows_BK)


def draw(seed: int, step: int, shape: tuple[int, ...], device: torch.device | str) -> Tensor:
    """Random integers from [0, 2³¹) for the negatives of one step, a function of (seed, step) alone.

    A CPU draws them with NumPy's SFC64, five times as fast as torch's generator; a GPU draws others.
    """
    key = mix_seed(seed, "negatives", step)
    if torch.device(device).type != "cpu":
        generator = torch.Generator(device).manual_seed(key)
        return torch.randint(1 << 31, shape, generator=generator, device=device)
    count = math.prod(shape)
    words = np.random.SFC64(key).random_raw(-(-count // 2)).view(np.int32)[:count]
    return torch.from_numpy(words).view(shape).bitwise_and(0x7FFFFFFF).long()


def below(draws: Tensor, limit: Tensor | int) -> Tensor:
    """Integers uniform in [0, limit) from those of `draw`: ⌊draw·limit/2³¹⌋, without a slow remainder.

    A number's probability is off by at most limit/2³¹ of itself: 2·10⁻⁵ for 50,000 images.
    """
    return draws * limit >> 31


def initial_bank(images: int, width: int, seed: int) -> Tensor:
    """A bank (N × D, float32, CPU) before training: uniform in ±1/√(D/3), so that E‖row‖² = 1, as in CRD.

    A function of ``seed`` alone: give the two banks two seeds.
    """
    generator = torch.Generator().manual_seed(mix_seed(seed, "bank"))
    bound = 1.0 / math.sqrt(width / 3)
    return torch.empty(images, width).uniform_(-bound, bound, generator=generator)


@torch.no_grad()
def update_bank(bank_ND: Tensor, rows_B: Tensor, v_BD: Tensor, momentum: float) -> None:
    """Move the rows of a batch towards its embeddings, in place: row ← normalized(m·row + (1−m)·v).

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
    bank_ND[rows_B] = normalize(moved_BD).to(bank_ND.dtype)
