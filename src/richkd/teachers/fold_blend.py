"""Blends of two outputs for a training image: of networks that were trained on it, and of one that was not.

A network that was trained on an image knows its label, and a network that was not is less accurate. The share
of the second one says how much of each is in the target.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from richkd.core.device import moved
from richkd.core.errors import ModelError
from richkd.core.types import UNLABELED, Batch, Output
from richkd.data.split import Split
from richkd.data.views import Augmentation, Views
from richkd.teachers.base import Teacher
from richkd.teachers.cache.row_format import RowFormat, as_stored
from richkd.teachers.cache.store import OutputCache
from richkd.teachers.folds import FoldTeachers

TRAINING = "train"


class InFold(Teacher):
    """The mean logits of those teachers of folds that were trained on an image.

    They are K − 1 of K networks. Images that none was trained on have no such mean, so only labeled training
    images may be asked for. The softmax of a mean of logits is the normalized geometric mean of the
    softmaxes.

    Args:
        folds: the teachers of folds, whose networks are used.
        training: the training split.

    Raises:
        ModelError: no teacher was trained on a labeled training image.

    Example:
        >>> from datasets import Dataset
        >>> from richkd.config.schema import ModelConfig
        >>> from richkd.models.build import build_network
        >>> from richkd.teachers.vision import VisionTeacher
        >>> config = ModelConfig(name="cifar_resnet8", size=8)
        >>> networks = [build_network(config, 2, role="teacher") for fold in range(2)]
        >>> teachers = [VisionTeacher(network, torch.device("cpu")) for network in networks]
        >>> labels_N = torch.tensor([0, 1])
        >>> training = Split("train", Dataset.from_dict({}), labels_N, ("a", "b"), "image", None)
        >>> folds = FoldTeachers(teachers, {"train": labels_N}, [["train[0]"], ["train[1]"]])
        >>> InFold(folds, training).seen_KN.tolist()
        [[False, True], [True, False]]
    """

    feature_width = 0
    only_splits = (TRAINING,)

    def __init__(self, folds: FoldTeachers, training: Split) -> None:
        self.teachers, self.framing = folds.teachers, folds.framing
        self.name = f"{len(folds.teachers)} × {folds.teachers[0].name}, in fold"
        labeled_N, keys = training.labels_N != UNLABELED, training.keys()
        self.seen_KN = torch.stack(
            [labeled_N & torch.tensor([key not in keys_k for key in keys]) for keys_k in folds.left_out]
        )
        unseen = (labeled_N & ~self.seen_KN.any(dim=0)).nonzero()[:, 0].tolist()
        if unseen:
            raise ModelError(
                "For each labeled training image, a teacher of folds must have been trained on it",
                got=f"{len(unseen)} images without such a teacher, first {keys[unseen[0]]}",
                fix="train the teachers of folds again, or remove fold_share.",
            )

    def outputs(self, batch: Batch, views: Views, *, maps: bool = False) -> Output:
        assert not maps, "maps of different networks are not comparable"
        assert batch.split == TRAINING, "only training images are in folds"
        seen_KB = self.seen_KN[:, batch.index_B]
        sum_BC: Tensor | None = None
        for teacher, seen_B in zip(self.teachers, seen_KB, strict=True):
            places = seen_B.nonzero()[:, 0]
            if len(places):
                logits_BC = _outputs_at(teacher, batch, views, places).logits_BC
                self.computed += len(places)
                if sum_BC is None:
                    sum_BC = logits_BC.new_zeros(len(batch), logits_BC.shape[1])
                sum_BC[moved(places, logits_BC.device)] += logits_BC
        assert sum_BC is not None
        mean_BC = sum_BC / seen_KB.sum(dim=0)[:, None].to(sum_BC)
        return as_stored(Output(mean_BC, mean_BC[:, :0]))

    @property
    def row_format(self) -> RowFormat:
        return RowFormat(self.teachers[0].row_format.classes, 0)

    def ingredients(self, *, trained: bool = True) -> dict[str, Any]:
        return {
            "teachers": [teacher.ingredients(trained=trained) for teacher in self.teachers],
            "images that each teacher saw": hashlib.sha256(self.seen_KN.numpy().tobytes()).hexdigest(),
        }


class FoldBlend(Teacher):
    """A teacher for ``share · z_out + (1 − share) · z_in`` for labeled training images, of logits z.

    z_out is of the network that was not trained on the image, z_in of one or several that were. Logits and
    log-probabilities of such a blend have the same softmax. All other images (held-out and unlabeled ones)
    were seen by no network, so their outputs are z_out. Neither output is computed where its weight is zero.

    Its two members are stored separately, so another share needs no new outputs.

    Args:
        out_of_fold: the teachers of folds.
        in_fold: the full teacher, or the `InFold` mean; it is asked for labeled training images only.
        share: weight of the out-of-fold logits, in [0, 1].
        labeled_N: which images of the training split have a label.

    Example:
        >>> from richkd.data.augmentations import Clean
        >>> class Constant(Teacher):
        ...     name, feature_width = "constant", 0
        ...     def __init__(self, value):
        ...         self.value = value
        ...     def outputs(self, batch, views, *, maps=False):
        ...         return Output(torch.full((len(batch), 1), self.value), torch.zeros(len(batch), 0))
        >>> blend = FoldBlend(Constant(1.0), Constant(5.0), 0.25, torch.tensor([True, True, False]))
        >>> batch = Batch("train", torch.arange(3), torch.zeros(3, 8, 8, 3), torch.tensor([0, 1, -1]))
        >>> blend.outputs(batch, Clean(8).draw(0, 0, batch.index_B)).logits_BC[:, 0].tolist()
        [4.0, 4.0, 1.0]
    """

    feature_width = 0

    def __init__(self, out_of_fold: Teacher, in_fold: Teacher, share: float, labeled_N: Tensor) -> None:
        assert 0 <= share <= 1
        self.out_of_fold, self.in_fold, self.share, self.labeled_N = out_of_fold, in_fold, share, labeled_N
        self.name, self.framing = f"{out_of_fold.name}, share {share:g}", out_of_fold.framing

    @property
    def computed(self) -> int:  # type: ignore[override]
        return self.out_of_fold.computed + self.in_fold.computed

    @property
    def members(self) -> tuple[Teacher, ...]:
        return self.out_of_fold, self.in_fold

    def with_members(self, change: Callable[[Teacher], Teacher]) -> Teacher:
        return FoldBlend(change(self.out_of_fold), change(self.in_fold), self.share, self.labeled_N)

    @property
    def caches(self) -> dict[tuple[str, Augmentation], OutputCache]:  # type: ignore[override]
        return {**self.in_fold.caches, **self.out_of_fold.caches}

    def outputs(self, batch: Batch, views: Views, *, maps: bool = False) -> Output:
        assert not maps, "maps of different networks are not comparable"
        outside, inside = self._asked(batch.split, batch.index_B)
        if not len(inside):
            return self.out_of_fold.outputs(batch, views)
        inside_BC = _outputs_at(self.in_fold, batch, views, inside).logits_BC
        logits_BC = inside_BC.new_empty(len(batch), inside_BC.shape[1])
        if len(outside):
            outside_BC = _outputs_at(self.out_of_fold, batch, views, outside).logits_BC
            logits_BC[moved(outside, logits_BC.device)] = outside_BC
        places = moved(inside, logits_BC.device)
        if self.share > 0:
            inside_BC = self.share * logits_BC[places] + (1 - self.share) * inside_BC
        logits_BC[places] = inside_BC
        return Output(logits_BC, logits_BC[:, :0])

    def lacks(self, split: str, index_B: Tensor, views: Views) -> bool:
        pairs = zip(self.members, self._asked(split, index_B), strict=True)
        return any(
            bool(len(places)) and member.lacks(split, index_B[places], views.at(places))
            for member, places in pairs
        )

    def flush(self) -> None:
        for member in self.members:
            member.flush()

    def exchange(self) -> None:
        for member in self.members:
            member.exchange()

    def _asked(self, split: str | None, index_B: Tensor) -> tuple[Tensor, Tensor]:
        """The places in the batch for which each member is asked."""
        everywhere = torch.arange(len(index_B))
        if split != TRAINING or self.share == 1:
            return everywhere, everywhere[:0]
        labeled_B = self.labeled_N[index_B]
        outside = everywhere if self.share > 0 else (~labeled_B).nonzero()[:, 0]
        return outside, labeled_B.nonzero()[:, 0]


def _outputs_at(teacher: Teacher, batch: Batch, views: Views, places: Tensor) -> Output:
    """The outputs for some images of a batch; a whole batch is not copied."""
    if len(places) == len(batch):
        return teacher.outputs(batch, views)
    return teacher.outputs(batch.at(places), views.at(places))
