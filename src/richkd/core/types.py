"""The records that travel between the parts, and the legend of shape letters.

Tensors are named with a suffix that spells their shape, one letter for each dimension:

    B  images in a batch            F  width of a network's pooled feature
    C  classes                      D  width of a shared embedding
    H  height in pixels             K  contrastive negatives for each image
    W  width in pixels              N  images in a data set
    P  prompts of a class           M  teachers that are fused
    L  tokens of a prompt

So ``logits_BC`` has a row of class logits for each image, and ``pixels_BHWC`` is a batch of color
images whose last ``C`` holds the three channels.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

# In place of the class of an image whose class nobody gave.
UNLABELED = -1


@dataclass(frozen=True)
class Batch:
    """Source images with their labels, before any view is rendered.

    ``index_B`` is each image's position in its split, ``pixels_BHWC`` holds uint8 source pixels,
    ``labels_B`` the class positions or `UNLABELED`. Positions stay on the CPU, and so do the views drawn
    from them: what is looked up by them must not wait for a GPU.
    """

    split: str
    index_B: Tensor
    pixels_BHWC: Tensor
    labels_B: Tensor

    def at(self, places: Tensor) -> Batch:
        """The images at these places of the batch, which lie on the CPU."""
        there = places.to(self.labels_B.device, non_blocking=True)
        return Batch(self.split, self.index_B[places], self.pixels_BHWC[there], self.labels_B[there])


@dataclass(frozen=True)
class Output:
    """What a network, or a CLIP, says of a batch: class logits and the pooled feature under them."""

    logits_BC: Tensor
    feats_BF: Tensor

    def to(self, device: torch.device) -> Output:
        return Output(
            self.logits_BC.to(device, non_blocking=True), self.feats_BF.to(device, non_blocking=True)
        )


@dataclass(frozen=True)
class Target:
    """What the student is to learn: the fused logits, and the teachers whose features are to be fused.

    Features are fused after trained projections to one width, so the target carries the teachers'
    own features with the weight of each; ``feature_weights`` sums to one. ``weight_B``, where there is
    one, says how far the fused logits are to be believed of each image, from 0 to 1.
    """

    logits_BC: Tensor
    teachers: tuple[Output, ...]
    feature_weights: tuple[float, ...]
    weight_B: Tensor | None = None


@dataclass(frozen=True)
class LossTerms:
    """Named, weighted loss terms; their sum is argmin_lbfgs.

    ``memory`` holds embedded rows that a method's state keeps for later batches, by name; the trainer
    hands them back to that state after the step without knowing what they are.
    """

    terms: dict[str, Tensor]
    memory: dict[str, Tensor] = field(default_factory=dict)

    @property
    def total(self) -> Tensor:
        return sum(self.terms.values(), start=next(iter(self.terms.values())).new_zeros(()))
