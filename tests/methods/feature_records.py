"""Outputs, targets and batches of random numbers, for the tests of terms on features and maps."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from richkd.core.types import UNLABELED, Batch, Output, Target
from richkd.methods.term import NetworkShapes, Setup, Shape, Term, TermConfig

CLASSES = 3


def randn(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).double()


def output(images: int, width: int, maps: Sequence[Shape] = (), *, seed: int) -> Output:
    """Random logits, features and maps in float64."""
    return Output(
        randn(images, CLASSES, seed=seed),
        randn(images, width, seed=seed + 1),
        tuple(randn(images, *shape, seed=seed + 2 + place) for place, shape in enumerate(maps)),
    )


def target(*teachers: Output, weights: Sequence[float] = (1.0,), weight_B: Tensor | None = None) -> Target:
    return Target(teachers[0].logits_BC, teachers, tuple(weights), weight_B)


def batch(images: int, *, labeled: bool = True) -> Batch:
    labels_B = torch.arange(images) % CLASSES if labeled else torch.full((images,), UNLABELED)
    return Batch("train", torch.arange(images), torch.zeros(images, 2, 2, 3, dtype=torch.uint8), labels_B)


def shapes(of: Output) -> NetworkShapes:
    return NetworkShapes(of.feats_BF.shape[1], tuple((m.shape[1], m.shape[2], m.shape[3]) for m in of.maps))


def build(term: type[Term], config: TermConfig, student: Output, *teachers: Output) -> Term:
    """The term for these networks, in float64, with state from a fixed seed."""
    setup = Setup(shapes(student), tuple(map(shapes, teachers)), torch.arange(6) % CLASSES, CLASSES, 0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return term(config, setup).double()
