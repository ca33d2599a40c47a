"""Out-of-fold teachers: several classifiers, each silent on the training images that it learned from.

A classifier is right on nearly all images that it was trained on, and says little more than the label there.
Trained without a fold of them, it says of that fold what it would say of new images.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from richkd.config.schema import ModelConfig
from richkd.core.errors import ModelError
from richkd.core.types import Batch, Output
from richkd.data.split import Data, Split
from richkd.data.views import Views
from richkd.export.student import CONFIG
from richkd.models.build import build_network
from richkd.teachers.base import Teacher
from richkd.teachers.cache.row_format import RowFormat
from richkd.teachers.vision import VisionTeacher


class FoldTeachers(Teacher):
    """One teacher of many: each image is answered by the one that was trained without it.

    Images that none was trained on are dealt out in turn, so that answers to them are as good as those to
    training images. Features of different networks do not compare, so there are none.
    """

    feature_width = 0

    def __init__(self, teachers: Sequence[VisionTeacher], folds: Mapping[str, Tensor]) -> None:
        self.teachers, self.folds = tuple(teachers), dict(folds)
        self.name = f"{len(teachers)} × {teachers[0].name}, out of fold"

    @property
    def computed(self) -> int:  # type: ignore[override]
        return sum(teacher.computed for teacher in self.teachers)

    def outputs(self, batch: Batch, views: Views, *, maps: bool = False) -> Output:
        assert not maps, "maps of several networks do not compare"
        assert batch.split is not None, "fold teachers are chosen by an image's position in its split"
        fold_B = self.folds[batch.split][batch.index_B]
        logits_BC: Tensor | None = None
        for fold, teacher in enumerate(self.teachers):
            places = (fold_B == fold).nonzero()[:, 0]
            if len(places):
                outputs = teacher.outputs(batch.at(places), views.at(places)).logits_BC
                if logits_BC is None:
                    logits_BC = outputs.new_empty(len(fold_B), outputs.shape[1])
                logits_BC[places.to(outputs.device, non_blocking=True)] = outputs
        assert logits_BC is not None
        return Output(logits_BC, logits_BC[:, :0])

    @property
    def row_format(self) -> RowFormat:
        return RowFormat(self.teachers[0].network.classes, 0)

    def ingredients(self) -> dict[str, Any]:
        digest = hashlib.sha256()
        for split, fold_N in sorted(self.folds.items()):
            digest.update(split.encode() + fold_N.numpy().tobytes())
        return {
            "teachers": [teacher.ingredients() for teacher in self.teachers],
            "who answers": digest.hexdigest(),
        }


def open_folds(
    folder: Path, data: Data, device: torch.device, autocast: torch.dtype | None, *, compiled: bool
) -> FoldTeachers:
    """The teachers that ``richkd teach --folds`` left in a folder, and who answers for which image.

    Raises:
        ModelError: no such teachers, ones that left out other images than these, or a training image that
            all of them have learned from.
        ClassError: teachers of other classes.
    """
    students = sorted(folder.glob(f"fold-*/student/{CONFIG}"), key=lambda path: path.parent.parent.name)
    if len(students) < 2:
        raise ModelError(
            f"{folder} must hold at least two teachers of folds",
            got=f"{len(students)}",
            fix="make them with `richkd teach --folds 5 --out FOLDER`.",
        )
    fold_of_key: dict[str, int] = {}
    teachers = []
    for fold, path in enumerate(students):
        left_out = json.loads(path.read_text(encoding="utf-8")).get("richkd", {}).get("left_out")
        if not left_out:
            raise ModelError(
                f"Teachers of folds must name the images that they left out: {path} does not",
                fix="make them with `richkd teach --folds 5 --out FOLDER`.",
            )
        fold_of_key |= dict.fromkeys(left_out, fold)
        name = f"local-dir:{path.parent}"
        network = build_network(ModelConfig(name=name), len(data.class_names), role="teacher")
        teachers.append(VisionTeacher(network, device, autocast, compiled=compiled))
    folds = {
        name: _folds_of(split, fold_of_key, len(teachers), folder) for name, split in data.splits.items()
    }
    return FoldTeachers(teachers, folds)


def _folds_of(split: Split, fold_of_key: Mapping[str, int], folds: int, folder: Path) -> Tensor:
    keys = split.keys()
    result = [fold_of_key.get(key, place % folds) for place, key in enumerate(keys)]
    labeled = [key for key, label in zip(keys, split.labels_N.tolist(), strict=True) if label >= 0]
    known = sum(key in fold_of_key for key in labeled)
    if split.name == "train" and known < len(labeled):
        missing = next(key for key in labeled if key not in fold_of_key)
        raise ModelError(
            f"Each labeled training image must be one that a teacher of {folder} was trained without",
            got=f"{len(labeled) - known} of {len(labeled)} that are not, first {missing}",
            fix="train these teachers on the same --data, with the same seed and data.val_fraction.",
        )
    return torch.tensor(result)
