"""How closely a student follows a teacher: its choices, its probabilities, its features."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from richkd.core.errors import DataError
from richkd.core.numerics import kl_nats
from richkd.core.types import Output
from richkd.metrics.accuracy import agreement
from richkd.metrics.checks import Figures

# Images that features are compared on: the estimate hardly moves beyond, and its cost is their square.
CKA_IMAGES = 2048
# With fewer there is no unbiased estimate.
FEWEST = 4


@dataclass(frozen=True)
class Fidelity(Figures):
    """A student beside one teacher.

    ``agreement`` is the share of images on which both choose the same class; ``kl`` the mean
    KL(teacher ‖ student) in nats; ``cka`` the likeness of their features, at most 1.
    """

    name: str
    agreement: float
    kl: float
    cka: float | None


def measure_fidelity(name: str, student: Output, teacher: Output) -> Fidelity:
    """A student's and a teacher's logits, each of its own probabilities, on the same images; and features.

    Raises:
        RichKDError: logits of two shapes, or not finite; features of other images.
    """
    likeness = None
    if _comparable(student.feats_BF, teacher.feats_BF):
        likeness = cka(student.feats_BF[:CKA_IMAGES], teacher.feats_BF[:CKA_IMAGES])
    return Fidelity(
        name,
        agreement(student.logits_BC, teacher.logits_BC),
        float(kl_nats(teacher.logits_BC, student.logits_BC).mean()),
        likeness,
    )


def _comparable(a_NF: Tensor, b_NF: Tensor) -> bool:
    """Whether there are images enough, and features of both (outputs without any have width 0)."""
    return min(len(a_NF), len(b_NF)) >= FEWEST and min(a_NF.shape[1], b_NF.shape[1]) > 0


def cka(a_NF: Tensor, b_NF: Tensor) -> float:
    """Linear centered kernel alignment, ``HSIC(A, B) / √(HSIC(A, A) · HSIC(B, B))``, of two sets of features.

    With the unbiased HSIC of Song et al. 2012, so that it does not grow where images are few and features
    wide (Nguyen, Raghu and Kornblith 2021): 0 in expectation for features that have nothing in common, 1 for
    the same up to rotation, offset and scale. 0 where either does not vary.

    Raises:
        DataError: features of different images, or of fewer than four.
    """
    if len(a_NF) != len(b_NF) or len(a_NF) < FEWEST:
        raise DataError(
            "Features are compared on the same images, at least four",
            got=f"{len(a_NF)} and {len(b_NF)} images",
            fix="take both from one split.",
        )
    a_NN, b_NN = (_gram(feats_NF.double()) for feats_NF in (a_NF, b_NF))
    own = hsic(a_NN, a_NN) * hsic(b_NN, b_NN)
    return hsic(a_NN, b_NN) / own**0.5 if own > 0 else 0.0


def hsic(a_NN: Tensor, b_NN: Tensor) -> float:
    """The unbiased Hilbert-Schmidt independence criterion of two Gram matrices with zero diagonals."""
    n = len(a_NN)
    total = (a_NN * b_NN).sum() + a_NN.sum() * b_NN.sum() / ((n - 1) * (n - 2))
    return float((total - 2 / (n - 2) * (a_NN.sum(dim=0) @ b_NN.sum(dim=0))) / (n * (n - 3)))


def _gram(feats_NF: Tensor) -> Tensor:
    # An offset cancels in exact arithmetic; taken off first it costs no digits.
    centered_NF = feats_NF - feats_NF.mean(dim=0)
    gram_NN = centered_NF @ centered_NF.T
    gram_NN.fill_diagonal_(0.0)
    return gram_NN
