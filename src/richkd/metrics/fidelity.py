"""How closely a student follows a teacher: predictions, probabilities and features."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from richkd.core.errors import DataError
from richkd.core.numerics import kl_nats
from richkd.core.types import Output
from richkd.data.split import evenly_spaced
from richkd.metrics.accuracy import agreement
from richkd.metrics.checks import Figures

# CKA uses at most this many images: more hardly change the estimate, and the cost grows quadratically.
CKA_IMAGES = 2048
# The unbiased estimate does not exist for fewer images.
FEWEST = 4


@dataclass(frozen=True)
class Fidelity(Figures):
    """Similarity of a student to one teacher; made by `measure_fidelity`.

    Attributes:
        name: name of the teacher.
        agreement: fraction of the images for which both predict the same class, in [0, 1].
        kl: mean KL(teacher ‖ student) in nats, ≥ 0.
        cka: similarity of the features, at most 1 (see `cka`); None if it cannot be computed.
    """

    name: str
    agreement: float
    kl: float
    cka: float | None


def measure_fidelity(name: str, student: Output, teacher: Output) -> Fidelity:
    """Compare the outputs of a student and a teacher on the same images, in the same order.

    The logits of each are converted to probabilities by a softmax at temperature 1. The features are
    compared on `CKA_IMAGES` images, evenly spaced over all, if both networks have features.

    Args:
        name: name of the teacher.
        student: logits and features of the student.
        teacher: logits and features of the teacher.

    Raises:
        RichKDError: the shapes of the logits differ, logits are not finite, or the features are not of the
            same images.

    Example:
        >>> import torch
        >>> output = Output(torch.eye(4), torch.eye(4))
        >>> fidelity = measure_fidelity("teacher", output, output)
        >>> fidelity.agreement, fidelity.kl
        (1.0, 0.0)
    """
    similarity = None
    if _comparable(student.feats_BF, teacher.feats_BF):
        # Splits are often sorted by class, so the first images would be those of a few classes.
        sample_N = evenly_spaced(len(student.feats_BF), CKA_IMAGES).to(student.feats_BF.device)
        similarity = cka(student.feats_BF[sample_N], teacher.feats_BF[sample_N])
    return Fidelity(
        name,
        agreement(student.logits_BC, teacher.logits_BC),
        float(kl_nats(teacher.logits_BC, student.logits_BC).mean()),
        similarity,
    )


def _comparable(a_NF: Tensor, b_NF: Tensor) -> bool:
    """Whether there are enough images and both have features (an output without features has width 0)."""
    return min(len(a_NF), len(b_NF)) >= FEWEST and min(a_NF.shape[1], b_NF.shape[1]) > 0


def cka(a_NF: Tensor, b_NF: Tensor) -> float:
    """Linear centered kernel alignment of two sets of features: ``HSIC(A, B) / √(HSIC(A, A) · HSIC(B, B))``.

    Uses the unbiased HSIC of Song et al. 2012. The biased estimate increases when there are few images and
    many dimensions (Nguyen, Raghu and Kornblith 2021). The result is 0 in expectation for independent
    features, and 1 for features that are equal up to rotation, offset and scale. It is 0 if the features of
    one network are constant.

    Args:
        a_NF: features of the first network.
        b_NF: features of the second network for the same images; the width can differ.

    Raises:
        DataError: the numbers of images differ, or there are fewer than four images.

    Example:
        >>> import torch
        >>> a_NF = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 2.0], [3.0, 1.0], [2.0, 5.0]])
        >>> round(cka(a_NF, 10 * a_NF.flip(1) + 7), 6)  # the same up to rotation, scale and offset
        1.0
    """
    if len(a_NF) != len(b_NF) or len(a_NF) < FEWEST:
        raise DataError(
            "Features must be compared on the same images, at least four",
            got=f"{len(a_NF)} and {len(b_NF)} images",
            fix="compute both from the same split.",
        )
    a_NN, b_NN = (_gram(feats_NF.double()) for feats_NF in (a_NF, b_NF))
    norm = hsic(a_NN, a_NN) * hsic(b_NN, b_NN)
    return hsic(a_NN, b_NN) / norm**0.5 if norm > 0 else 0.0


def hsic(a_NN: Tensor, b_NN: Tensor) -> float:
    """Unbiased Hilbert-Schmidt independence criterion (HSIC) of two Gram matrices (N, N) with zero diagonals.

    Source: Song et al. 2012, "Feature selection via dependence maximization".

    Example:
        >>> import torch
        >>> pairs_NN = torch.block_diag(*[torch.tensor([[0.0, 1.0], [1.0, 0.0]])] * 2)
        >>> round(hsic(pairs_NN, pairs_NN), 3)
        0.667
    """
    n = len(a_NN)
    total = (a_NN * b_NN).sum() + a_NN.sum() * b_NN.sum() / ((n - 1) * (n - 2))
    return float((total - 2 / (n - 2) * (a_NN.sum(dim=0) @ b_NN.sum(dim=0))) / (n * (n - 3)))


def _gram(feats_NF: Tensor) -> Tensor:
    # The unbiased HSIC cancels an offset exactly; subtracting it first avoids the loss of digits.
    centered_NF = feats_NF - feats_NF.mean(dim=0)
    gram_NN = centered_NF @ centered_NF.T
    gram_NN.fill_diagonal_(0.0)
    return gram_NN
