"""Sample the negatives of the contrastive loss, and initialize and update the memory banks.

Negatives are rows of other classes. In a memory bank that is sorted by class, a random row of another class
is found by arithmetic, without lists of rows per class.
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
    """Assign each image a row of a memory bank that is sorted by class.

    Args:
        labels_N: labels of the training images.
        classes: number of classes C.

    Returns:
        The row of each image (N), where images of the same class keep their order; the first row of each
        class (C); and the number of rows of each class (C).

    Raises:
        DataError: fewer than two classes have images, so there are no negatives.

    Example:
        >>> rows_N, starts_C, sizes_C = rows_by_class(torch.tensor([1, 0, 1]), classes=2)
        >>> rows_N.tolist(), starts_C.tolist(), sizes_C.tolist()
        ([1, 0, 2], [0, 1], [1, 2])
    """
    sizes_C = torch.bincount(labels_N, minlength=classes)
    refuse_one_class(sizes_C)
    order_N = torch.argsort(labels_N, stable=True)
    rows_N = torch.empty_like(order_N)
    rows_N[order_N] = torch.arange(len(labels_N), device=labels_N.device)
    return rows_N, sizes_C.cumsum(0) - sizes_C, sizes_C


def refuse_one_class(sizes_C: Tensor) -> None:
    """Check that there are images of at least two classes, because negatives are of other classes.

    Args:
        sizes_C: number of images of each class.

    Raises:
        DataError: fewer than two classes have images.

    Example:
        >>> refuse_one_class(torch.tensor([1, 0, 2]))
    """
    if int((sizes_C > 0).sum()) < 2:
        raise DataError(
            "The contrastive loss needs images of at least two classes (negatives come from other classes)",
            got=f"{int(sizes_C.sum())} images, all of one class",
            fix="train on more classes, or use a method without the contrastive feature loss.",
        )


def negative_rows(
    labels_B: Tensor, class_starts_C: Tensor, class_sizes_C: Tensor, draws_BK: Tensor
) -> Tensor:
    """Bank rows (B × K, int64) of other classes, uniform with replacement, from given random integers.

    With r = `below` (draw, N − n_y), the row is r if r is before the first row of the image's class y, else
    r + n_y. This skips exactly the rows of y.

    Args:
        labels_B: labels of the batch.
        class_starts_C: first row of each class (`rows_by_class`).
        class_sizes_C: number of rows of each class (`rows_by_class`).
        draws_BK: random integers of `draw`.

    Example:
        >>> starts_C, sizes_C = torch.tensor([0, 1]), torch.tensor([1, 2])
        >>> draws_BK = torch.tensor([[0, 2**30], [0, 2**30]])
        >>> negative_rows(torch.tensor([0, 1]), starts_C, sizes_C, draws_BK).tolist()
        [[1, 2], [0, 0]]
    """
    starts_B1 = class_starts_C[labels_B, None]
    sizes_B1 = class_sizes_C[labels_B, None]
    # With many unlabeled images there are about as many classes as rows, so their sizes are not added up.
    images = class_starts_C[-1] + class_sizes_C[-1]
    rows_BK = below(draws_BK, images - sizes_B1)
    return torch.where(rows_BK >= starts_B1, rows_BK + sizes_B1, rows_BK)


def draw(seed: int, step: int, shape: tuple[int, ...], device: torch.device | str) -> Tensor:
    """Random integers in [0, 2³¹) for the negatives of one step; they depend only on (seed, step).

    The CPU uses NumPy's SFC64, which is five times as fast as the generator of PyTorch. Other devices use the
    generator of PyTorch, so their numbers differ from those of the CPU.

    Args:
        seed: seed of the run.
        step: training step.
        shape: shape of the result.
        device: device of the result.

    Example:
        >>> first, again, other = (draw(0, step, (2, 3), "cpu") for step in (7, 7, 8))
        >>> tuple(first.shape), torch.equal(first, again), torch.equal(first, other)
        ((2, 3), True, False)
    """
    key = mix_seed(seed, "negatives", step)
    if torch.device(device).type != "cpu":
        generator = torch.Generator(device).manual_seed(key)
        return torch.randint(1 << 31, shape, generator=generator, device=device)
    count = math.prod(shape)
    words = np.random.SFC64(key).random_raw(-(-count // 2)).view(np.int32)[:count]
    return torch.from_numpy(words).view(shape).bitwise_and(0x7FFFFFFF).long()


def below(draws: Tensor, limit: Tensor | int) -> Tensor:
    """Convert the integers of `draw` to uniform integers in [0, limit): ⌊draw·limit/2³¹⌋.

    This is faster than a remainder. The relative error of the probability of a number is at most limit/2³¹,
    that is 2·10⁻⁵ for 50,000 images.

    Example:
        >>> below(torch.tensor([0, 2**30, 2**31 - 1]), 10).tolist()
        [0, 5, 9]
    """
    return draws * limit >> 31


def initial_bank(images: int, width: int, seed: int) -> Tensor:
    """Initial memory bank (N × D, float32, on the CPU): uniform in ±1/√(D/3), so that E‖row‖² = 1, as in CRD.

    The result depends only on the arguments, so use different seeds for the two banks.

    Args:
        images: number of rows N.
        width: width D of an embedding.
        seed: seed of the random numbers.

    Example:
        >>> bank_ND = initial_bank(images=1000, width=12, seed=0)
        >>> tuple(bank_ND.shape), bool(bank_ND.abs().max() <= 0.5)
        ((1000, 12), True)
    """
    generator = torch.Generator().manual_seed(mix_seed(seed, "bank"))
    bound = 1.0 / math.sqrt(width / 3)
    return torch.empty(images, width).uniform_(-bound, bound, generator=generator)


@torch.no_grad()
def update_bank(bank_ND: Tensor, rows_B: Tensor, v_BD: Tensor, momentum: float) -> None:
    """Update the rows of a batch in place by a moving average: row ← normalized(m·row + (1−m)·v).

    Call it after the backward pass, which still needs the old rows.

    Args:
        bank_ND: the memory bank; it is changed.
        rows_B: the row of each image, without duplicates.
        v_BD: the embeddings of the batch.
        momentum: m in [0, 1].

    Raises:
        ConfigError: the momentum is outside [0, 1].

    Example:
        >>> bank_ND = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
        >>> update_bank(bank_ND, torch.tensor([0]), torch.tensor([[0.0, 2.0]]), momentum=0.0)
        >>> bank_ND.tolist()
        [[0.0, 1.0], [0.0, 1.0]]
    """
    if not 0.0 <= momentum <= 1.0:
        raise ConfigError(
            "Argument 'momentum' must lie in [0, 1]",
            got=repr(momentum),
            fix="use 0.5, as CRD does; 0 keeps only the newest embedding.",
        )
    mean_BD = momentum * at_least_fp32(bank_ND[rows_B]) + (1.0 - momentum) * at_least_fp32(v_BD)
    bank_ND[rows_B] = normalize(mean_BD).to(bank_ND.dtype)
