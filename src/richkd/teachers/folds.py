"""Out-of-fold teachers: several classifiers, each of which is used only for images it was not trained on.

A classifier is correct on nearly all of its training images, so its outputs there contain little more than
the label. If it was trained without a fold of the images, its outputs on this fold are like those on new
images. `fold_blend` mixes them with the outputs of classifiers that were trained on the image.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Container, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from richkd.config.schema import ModelConfig
from richkd.core.device import moved
from richkd.core.errors import ModelError
from richkd.core.structured import read_json
from richkd.core.types import Batch, Output
from richkd.data.classes import check_same_classes
from richkd.data.split import Data, Split
from richkd.data.views import Views
from richkd.models.build import Network, build_network
from richkd.models.saved import CONFIG, check_saved
from richkd.teachers.base import Teacher
from richkd.teachers.cache.row_format import RowFormat
from richkd.teachers.sharded import ShardedTeacher
from richkd.teachers.vision import VisionTeacher

Classifier = VisionTeacher | ShardedTeacher


class FoldTeachers(Teacher):
    """Several classifiers as one teacher: the output of an image comes from one that was not trained on it.

    Images that no classifier was trained on, such as validation images, are assigned to the classifiers in
    turn; so outputs have the same quality on all splits. Each network has a feature space of its own, in
    which a direction means something else, so this teacher has no features.

    Args:
        teachers: one classifier per fold.
        folds: for each split, the position in ``teachers`` that each image is assigned to (N, int64).
        left_out: for each classifier, the keys of the images that it was trained without.

    Attributes:
        computed: number of images that went through a network for this teacher. Other teachers can use the
            same networks.

    Example:
        >>> from richkd.models.build import Network, build_network
        >>> config = ModelConfig(name="cifar_resnet8", size=8)
        >>> networks = [build_network(config, 3, role="teacher") for fold in range(2)]
        >>> teachers = [VisionTeacher(network, torch.device("cpu")) for network in networks]
        >>> teacher = FoldTeachers(teachers, {"train": torch.tensor([0, 1, 1, 0])})
        >>> teacher.name, teacher.feature_width
        ('2 × cifar_resnet8, out of fold', 0)
    """

    feature_width = 0

    def __init__(
        self,
        teachers: Sequence[Classifier],
        folds: Mapping[str, Tensor],
        left_out: Sequence[Container[str]] = (),
    ) -> None:
        self.teachers, self.folds, self.left_out = tuple(teachers), dict(folds), tuple(left_out)
        self.name = f"{len(teachers)} × {teachers[0].name}, out of fold"
        self.framing = teachers[0].framing

    def outputs(self, batch: Batch, views: Views, *, maps: bool = False) -> Output:
        assert not maps, "maps of different networks are not comparable"
        assert batch.split is not None, "out-of-fold teachers need the split of each image"
        fold_B = self.folds[batch.split][batch.index_B]
        self.computed += len(fold_B)
        logits_BC: Tensor | None = None
        for fold, teacher in enumerate(self.teachers):
            places = (fold_B == fold).nonzero()[:, 0]
            if len(places):
                outputs = teacher.outputs(batch.at(places), views.at(places)).logits_BC
                if logits_BC is None:
                    logits_BC = outputs.new_empty(len(fold_B), outputs.shape[1])
                logits_BC[moved(places, outputs.device)] = outputs
        assert logits_BC is not None
        return Output(logits_BC, logits_BC[:, :0])

    @property
    def row_format(self) -> RowFormat:
        return RowFormat(self.teachers[0].row_format.classes, 0)

    def ingredients(self, *, trained: bool = True) -> dict[str, Any]:
        digest = hashlib.sha256()
        for split, fold_N in sorted(self.folds.items()):
            digest.update(split.encode() + fold_N.numpy().tobytes())
        return {
            "teachers": [teacher.ingredients(trained=trained) for teacher in self.teachers],
            "fold of each image": digest.hexdigest(),
        }


def open_folds(
    folder: str | Path, data: Data, opened: Callable[[Sequence[Network]], Sequence[Classifier]]
) -> FoldTeachers:
    """Open the teachers that ``richkd teach --folds`` wrote to a folder; assign each image to one of them.

    Args:
        folder: the ``--out`` folder of ``richkd teach``.
        data: the data set of the run.
        opened: makes teachers of their networks.

    Raises:
        ModelError: the folder has fewer than two fold teachers, a teacher does not list the images that it
            was trained without, all teachers were trained on one of the training images, or a teacher has
            another number of classes.
        ClassError: the classes of a teacher, or their order, differ from those of the data.
    """
    folder = Path(folder)
    students = sorted(folder.glob(f"fold-*/student/{CONFIG}"), key=lambda path: path.parent.parent.name)
    if len(students) < 2:
        raise ModelError(
            f"{folder} must contain at least two teachers of folds",
            got=f"{len(students)}",
            fix="train them with `richkd teach --folds --out FOLDER`.",
        )
    fold_of_key: dict[str, int] = {}
    networks: list[Network] = []
    all_left_out = [_left_out_of(path) for path in students]
    for fold, (path, left_out) in enumerate(zip(students, all_left_out, strict=True)):
        fold_of_key |= dict.fromkeys(left_out, fold)
        name = f"local-dir:{path.parent}"
        network = build_network(ModelConfig(name=name), len(data.class_names), role="teacher")
        if network.class_names is not None:
            check_same_classes(data.class_names, network.class_names, where=f"the teacher {name}")
        networks.append(network)
    folds = {
        name: _folds_of(split, fold_of_key, len(networks), folder) for name, split in data.splits.items()
    }
    return FoldTeachers(opened(networks), folds, all_left_out)


def _left_out_of(path: Path) -> frozenset[str]:
    """The keys of the images that a teacher was trained without, from its configuration.

    Raises:
        ModelError: the configuration is damaged or has no such keys.
    """
    check_saved(path.parent)
    try:
        keys = read_json(path)["richkd"]["left_out"]
    except (OSError, ValueError, LookupError, TypeError):
        keys = None
    if not (keys and isinstance(keys, list) and all(isinstance(key, str) for key in keys)):
        raise ModelError(
            f"{path} must list the images that the teacher was trained without",
            got="no list of images",
            fix="train the teachers with `richkd teach --folds --out FOLDER`.",
        )
    return frozenset(keys)


def _folds_of(split: Split, fold_of_key: Mapping[str, int], folds: int, folder: Path) -> Tensor:
    keys = split.keys()
    result = [fold_of_key.get(key, place % folds) for place, key in enumerate(keys)]
    labeled = [key for key, label in zip(keys, split.labels_N.tolist(), strict=True) if label >= 0]
    known = sum(key in fold_of_key for key in labeled)
    if split.name == "train" and known < len(labeled):
        missing = next(key for key in labeled if key not in fold_of_key)
        raise ModelError(
            f"For each labeled training image, a teacher in {folder} must have been trained without it",
            got=f"{len(labeled) - known} of {len(labeled)} images without such a teacher, first {missing}",
            fix="train the teachers on the same --data, with the same seed, data.val_fraction and "
            "data.labels_per_class.",
        )
    return torch.tensor(result)
