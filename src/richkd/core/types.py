"""The records that travel between the parts, and the legend of shape letters.

Tensors are named with a suffix that spells their shape, one letter per dimension:

    B  images in a batch            F  width of a network's pooled feature
    C  classes                      D  width of a shared embedding
    H  height in pixels             K  contrastive negatives per image
    W  width in pixels              N  images in a data set
    P  prompts of a class           M  teachers that are fused
    L  tokens of a prompt

So ``logits_BC`` has a row of class logits for each image. ``pixels_BHWC`` is a batch of color images, whose
last letter stands for the three channels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from richkd.core.device import moved

# The label of an image whose class is not known.
UNLABELED = -1


@dataclass(frozen=True)
class Batch:
    """Source images with their labels, before any view is rendered.

    ``index_B`` is each image's position in its split and ``labels_B`` its class, or `UNLABELED`. ``split``
    names the split that holds these pixels. It is None for pixels that no split holds, such as corrupted
    images: nothing that was stored for a split can then be returned for them.

    ``index_B`` stays on the CPU, and so do the views that are drawn from it: looking something up by
    position must not wait for a GPU.

    If views are cut from whole pictures, ``crops`` has the rendered views of the batch, uint8 pixels by
    resolution, and ``pixels_BHWC`` is empty.
    """

    split: str | None
    index_B: Tensor
    pixels_BHWC: Tensor
    labels_B: Tensor
    crops: Mapping[int, Tensor] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.labels_B)

    def at(self, places: Tensor) -> Batch:
        """The images at these positions (CPU, int64) of the batch."""
        there = moved(places, self.labels_B.device)
        crops = {size: crops_BSS3[there] for size, crops_BSS3 in self.crops.items()}
        return Batch(self.split, self.index_B[places], self.pixels_BHWC[there], self.labels_B[there], crops)

    def to(self, device: torch.device) -> Batch:
        """The batch with its pixels and labels on a device."""
        return replace(
            self,
            pixels_BHWC=moved(self.pixels_BHWC, device),
            labels_B=moved(self.labels_B, device),
            crops={size: moved(pixels, device) for size, pixels in self.crops.items()},
        )

    def split_at(self, sizes: Sequence[int]) -> list[Batch]:
        """The batch cut into pieces of these sizes, in order.

        Example:
            >>> batch = Batch("train", torch.arange(5), torch.zeros(5, 2, 2, 3), torch.zeros(5))
            >>> [part.index_B.tolist() for part in batch.split_at([2, 3])]
            [[0, 1], [2, 3, 4]]
        """
        if len(sizes) == 1:
            return [self]
        return [self.at(places) for places in torch.split(torch.arange(len(self)), list(sizes))]


@dataclass(frozen=True)
class Output:
    """What a network, or a CLIP, computes for a batch.

    ``logits_BC`` are class logits, ``feats_BF`` the pooled feature under the classifier, and ``maps`` the
    intermediate maps (each B × channels × height × width, first stage first) where a loss term asked for
    them.
    """

    logits_BC: Tensor
    feats_BF: Tensor
    maps: tuple[Tensor, ...] = ()

    def to(self, device: torch.device) -> Output:
        """The output on a device."""
        logits_BC, feats_BF, *maps = (moved(t, device) for t in (self.logits_BC, self.feats_BF, *self.maps))
        return Output(logits_BC, feats_BF, tuple(maps))

    def at(self, places: Tensor) -> Output:
        """The rows at these positions of the batch.

        Example:
            >>> Output(torch.eye(3), torch.zeros(3, 2)).at(torch.tensor([2])).logits_BC.tolist()
            [[0.0, 0.0, 1.0]]
        """
        places = moved(places, self.logits_BC.device)
        maps = tuple(map_BFHW[places] for map_BFHW in self.maps)
        return Output(self.logits_BC[places], self.feats_BF[places], maps)

    def cpu(self) -> Output:
        """Logits and features in float32 on the CPU, without maps."""
        return Output(self.logits_BC.float().cpu(), self.feats_BF.float().cpu())

    @staticmethod
    def cat(outputs: Sequence[Output]) -> Output:
        """One output from those of consecutive batches.

        Example:
            >>> parts = [Output(torch.zeros(n, 3), torch.zeros(n, 4)) for n in (2, 1)]
            >>> len(Output.cat(parts).logits_BC)
            3
        """
        stages = zip(*(output.maps for output in outputs), strict=True)
        return Output(
            torch.cat([output.logits_BC for output in outputs]),
            torch.cat([output.feats_BF for output in outputs]),
            tuple(torch.cat(stage) for stage in stages),
        )


@dataclass(frozen=True)
class Target:
    """What a loss term compares the student with: fused logits, and the outputs of the teachers behind them.

    Features are fused after trained projections to one width. So the target carries each teacher's own
    features with the weight of each in ``feature_weights``, which sum to one. ``weight_B``, if given, is the
    weight of each image in [0, 1], for the losses that have such weights.

    ``logs`` are the log-probabilities (B, C) of each teacher at its own logit scale, before any fusion. They
    are given where a loss term asked for them, else empty.
    """

    logits_BC: Tensor
    teachers: tuple[Output, ...]
    feature_weights: tuple[float, ...]
    weight_B: Tensor | None = None
    logs: tuple[Tensor, ...] = ()

    def at(self, places: Tensor) -> Target:
        """The target of the images at these positions of the batch."""
        places = moved(places, self.logits_BC.device)
        return replace(
            self,
            logits_BC=self.logits_BC[places],
            teachers=tuple(teacher.at(places) for teacher in self.teachers),
            weight_B=None if self.weight_B is None else self.weight_B[places],
            logs=tuple(log_BC[places] for log_BC in self.logs),
        )


Targets = Mapping[str, Target]


@dataclass(frozen=True)
class LossTerms:
    """Named, weighted loss terms. Their sum is minimized.

    ``memory`` holds, by term, detached rows that the term's state keeps for later batches. The trainer hands
    them back to that term after the optimizer step.
    """

    terms: dict[str, Tensor]
    memory: dict[str, dict[str, Tensor]] = field(default_factory=dict)

    @property
    def total(self) -> Tensor:
        """The sum of all terms."""
        return sum(self.terms.values(), start=next(iter(self.terms.values())).new_zeros(()))
