"""Stand-ins for a CLIP that show what its place in a fusion is worth without its knowledge of the image.

A student that gains as much from one of these as from CLIP gained from something else: softer targets,
more regularization, or the names of the classes. Fusion is fitted with the true outputs, and only what
the student learns from is replaced.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional

from richkd.core.seeds import mix_seed
from richkd.core.types import UNLABELED, Batch, Output
from richkd.data.batches import Store
from richkd.data.views import Views
from richkd.teachers.base import Teacher


class Shuffled(Teacher):
    """A teacher that answers for another training image: any, or another of the same class.

    The permutation is a function of the seed; within classes, unlabeled images are permuted among
    themselves. Answers to all other splits are the teacher's own.
    """

    def __init__(self, teacher: Teacher, training: Store, seed: int, *, within_class: bool) -> None:
        self.teacher, self.training = teacher, training
        self.name, self.feature_width, self.role = teacher.name, teacher.feature_width, teacher.role
        self.logit_scale = teacher.logit_scale
        split = training.split
        self.other_N = permutation(split.labels_N, seed, within_class=within_class)

    def outputs(self, batch: Batch, views: Views, *, maps: bool = False) -> Output:
        if batch.split != self.training.split.name:
            return self.teacher.outputs(batch, views)
        (other,) = self.training.batches([self.other_N[batch.index_B]])
        pixels_BHWC = other.pixels_BHWC.to(batch.pixels_BHWC.device)
        # The view is this image's, so its number says nothing of what a cache holds of the other one.
        views = replace(views, augmentation=None, number_B=None)
        return self.teacher.outputs(replace(batch, index_B=other.index_B, pixels_BHWC=pixels_BHWC), views)


class TextOnly(Teacher):
    """A teacher that has read the labels and never sees an image: it answers how alike class names are.

    Logits of an image of class y are the cosines of y's text embedding with all classes', so non-target
    mass is that of the names; of an unlabeled image it has nothing to say. It answers for training images
    alone; other splits, which fusion is fitted on, are answered by the teacher.
    """

    def __init__(self, teacher: Teacher, class_embeddings_CD: Tensor, training: str) -> None:
        self.teacher, self.training = teacher, training
        self.name, self.feature_width, self.role = teacher.name, teacher.feature_width, teacher.role
        self.logit_scale = teacher.logit_scale
        self.text_CD = functional.normalize(class_embeddings_CD.float(), dim=1)

    def outputs(self, batch: Batch, views: Views, *, maps: bool = False) -> Output:
        if batch.split != self.training:
            return self.teacher.outputs(batch, views)
        text_CD = self.text_CD.to(batch.labels_B.device)
        text_BD = text_CD[batch.labels_B].masked_fill((batch.labels_B == UNLABELED)[:, None], 0.0)
        return Output(text_BD @ text_CD.T, text_BD)


def permutation(labels_N: Tensor, seed: int, *, within_class: bool) -> Tensor:
    """For each image the one (N) whose answer it gets: a permutation of all, or of each class."""
    generator = torch.Generator().manual_seed(mix_seed(seed, "shuffled teacher"))
    random_N = torch.randperm(len(labels_N), generator=generator)
    if not within_class:
        return random_N
    # Images by class, once in their order and once at random: places of one class correspond.
    ordered_N = labels_N.argsort(stable=True)
    shuffled_N = random_N[labels_N[random_N].argsort(stable=True)]
    other_N = torch.empty_like(ordered_N)
    other_N[ordered_N] = shuffled_N
    return other_N
