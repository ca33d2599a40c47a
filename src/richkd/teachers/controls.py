"""Control teachers: they replace CLIP in a fusion, but do not use the content of the image.

If a student improves as much with a control as with CLIP, the gain comes from something else: softer targets,
more regularization, or the class names. Fusion is fitted on the true outputs; only the training targets are
replaced.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional

from richkd.core.device import moved
from richkd.core.seeds import mix_seed
from richkd.core.types import UNLABELED, Batch, Output
from richkd.data.batches import Store
from richkd.data.views import Views
from richkd.teachers.base import Teacher


class Shuffled(Teacher):
    """A teacher that returns, for a training image, the output of another training image.

    The images are permuted by `permutation`, which moves all but the single image of a class. Outputs for
    other splits are not changed.

    Args:
        teacher: the teacher that computes the outputs.
        training: the training split.
        seed: seed of the permutation.
        within_class: permute images only within their class; unlabeled images count as one class.

    Example:
        >>> from datasets import Dataset
        >>> from richkd.data import batches, split
        >>> from richkd.data.framing import Framing
        >>> from richkd.teachers.precomputed.clip import GivenClip
        >>> clip = GivenClip(torch.eye(3), torch.eye(2, 3), {}, logit_scale=100.0, fingerprint="")
        >>> labels_N, rows = torch.tensor([0, 0, 1]), Dataset.from_dict({})
        >>> train = split.Split("train", rows, labels_N, ("ant", "bee"), "image", None)
        >>> store = batches.Resident(train, Framing(8), torch.zeros(3, 8, 8, 3, dtype=torch.uint8))
        >>> int(Shuffled(clip, store, seed=0, within_class=True).other_N[2])  # the only image of its class
        2
    """

    def __init__(self, teacher: Teacher, training: Store, seed: int, *, within_class: bool) -> None:
        self.teacher, self.training = teacher, training
        self.name, self.feature_width, self.role = teacher.name, teacher.feature_width, teacher.role
        self.logit_scale, self.framing = teacher.logit_scale, teacher.framing
        split = training.split
        self.other_N = permutation(split.labels_N, seed, within_class=within_class)

    def outputs(self, batch: Batch, views: Views, *, maps: bool = False) -> Output:
        if batch.split != self.training.split.name:
            return self.teacher.outputs(batch, views)
        (other,) = self.training.batches([self.other_N[batch.index_B]], [views])
        other = replace(other.to(batch.pixels_BHWC.device), labels_B=batch.labels_B)
        # The view was drawn for this image, so its number must not be used as a cache key of the other one.
        return self.teacher.outputs(other, replace(views, augmentation=None, number_B=None))


class TextOnly(Teacher):
    """A teacher whose outputs depend only on the label of a training image: similarities of class names.

    The logits of an image of class y are the cosines t_y · t_c between the text embedding of y and those of
    all classes c; the feature is t_y. Both are zero for an unlabeled image. Outputs for other splits, on
    which fusion is fitted, are those of the wrapped teacher.

    Args:
        teacher: the teacher that computes the outputs of other splits.
        class_embeddings_CD: text embedding of each class.
        training: name of the training split.

    Example:
        >>> from richkd.data.augmentations import Clean
        >>> from richkd.teachers.precomputed.clip import GivenClip
        >>> clip = GivenClip(torch.eye(2), torch.eye(2), {}, logit_scale=100.0, fingerprint="")
        >>> teacher = TextOnly(clip, torch.tensor([[1.0, 0.0], [0.6, 0.8]]), "train")
        >>> batch = Batch("train", torch.tensor([0]), torch.zeros(1, 8, 8, 3), torch.tensor([1]))
        >>> output = teacher.outputs(batch, Clean(8).draw(0, 0, batch.index_B))
        >>> [round(cosine, 4) for cosine in output.logits_BC[0].tolist()]
        [0.6, 1.0]
    """

    def __init__(self, teacher: Teacher, class_embeddings_CD: Tensor, training: str) -> None:
        self.teacher, self.training = teacher, training
        self.name, self.feature_width, self.role = teacher.name, teacher.feature_width, teacher.role
        self.logit_scale, self.framing = teacher.logit_scale, teacher.framing
        self.text_CD = functional.normalize(class_embeddings_CD.float(), dim=1)

    def outputs(self, batch: Batch, views: Views, *, maps: bool = False) -> Output:
        if batch.split != self.training:
            return self.teacher.outputs(batch, views)
        text_CD = moved(self.text_CD, batch.labels_B.device)
        text_BD = text_CD[batch.labels_B].masked_fill((batch.labels_B == UNLABELED)[:, None], 0.0)
        return Output(text_BD @ text_CD.T, text_BD)


def permutation(labels_N: Tensor, seed: int, *, within_class: bool) -> Tensor:
    """A random permutation of all images, or of the images within each class, that moves every image.

    It is a random cycle, so no image keeps its own output. Only the single image of a class stays.

    Args:
        labels_N: class positions (int64); equal values are one class.
        seed: seed of the permutation.
        within_class: permute only within classes.

    Returns:
        For each image, the position of the image that replaces it (N, int64).

    Example:
        >>> labels_N = torch.tensor([0, 1, 0, 1])
        >>> permutation(labels_N, seed=0, within_class=True).tolist()
        [2, 3, 0, 1]
    """
    generator = torch.Generator().manual_seed(mix_seed(seed, "shuffled teacher"))
    order_N = torch.randperm(len(labels_N), generator=generator)
    group_N = labels_N if within_class else torch.zeros_like(labels_N)
    # By class, in random order within each. An image is replaced by the next one, the last of a class by the
    # first.
    order_N = order_N[group_N[order_N].argsort(stable=True)]
    sorted_N = group_N[order_N]
    next_N = torch.arange(1, len(labels_N) + 1)
    ends_N = torch.searchsorted(sorted_N, sorted_N, right=True) == next_N
    next_N[ends_N] = torch.searchsorted(sorted_N, sorted_N[ends_N])
    other_N = torch.empty_like(order_N)
    other_N[order_N] = order_N[next_N]
    return other_N
