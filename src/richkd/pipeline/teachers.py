"""Opening teachers from their settings: vision networks, teachers of folds, imported outputs, and a CLIP."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from richkd.config.model_name import parse_model_name
from richkd.config.schema import Config, ModelConfig
from richkd.core.errors import ConfigError, ModelError
from richkd.core.precision import autocast_dtype
from richkd.data.batches import Store
from richkd.data.classes import check_same_classes
from richkd.data.hierarchy import read_hierarchy
from richkd.data.split import Data
from richkd.data.views import Augmentation
from richkd.models.build import Network, build_network
from richkd.teachers.base import Teacher
from richkd.teachers.folds import open_folds
from richkd.teachers.precomputed.vision import open_imported
from richkd.teachers.vision import VisionTeacher

Log = Callable[[str], None]


@dataclass(frozen=True)
class Opening:
    """What opening a teacher may depend on.

    Attributes:
        features: whether a loss term reads features.
        log: receives a line for everything worth knowing.
    """

    config: Config
    data: Data
    stores: Mapping[str, Store]
    augmentations: Mapping[str, Augmentation]
    device: torch.device
    features: bool
    log: Log


def open_vision_teachers(opening: Opening) -> tuple[Teacher, ...]:
    """The vision teachers in the order of the settings, each with a name of its own.

    Raises:
        RichKDError: a teacher that cannot be opened, or whose classes are not the data's.
    """
    config = opening.config
    teachers = [_open_vision(model, opening) for model in config.teachers]
    _make_names_unique(teachers, config.teachers)
    return tuple(teachers)


def open_clip_teacher(opening: Opening) -> Teacher:
    """The CLIP of the settings: a model, or outputs computed elsewhere.

    Raises:
        RichKDError: a CLIP that cannot be opened, or outputs of other classes or images.
    """
    config, data = opening.config, opening.data
    assert config.clip is not None
    name = parse_model_name(config.clip.name)
    if name.kind == "outputs":
        from richkd.teachers.precomputed.clip import load_given

        keys = {split_name: split.keys() for split_name, split in data.splits.items()}
        return load_given(name.path, keys, data.class_names)
    # open_clip takes a second to import; runs without a CLIP do not pay for it.
    from richkd.teachers.clip.load import clip_teacher

    hierarchy = config.data.hierarchy
    superclasses = read_hierarchy(hierarchy, data.class_names).names() if hierarchy else None
    return clip_teacher(config.clip, data.class_names, opening.device, superclasses)


def build_teacher(config: ModelConfig, data: Data) -> Network:
    """A vision teacher's network, whose classes are the data's.

    Raises:
        ModelError: another architecture or number of classes, or no weights.
        ClassError: its saved class names differ, or their order does.
    """
    if parse_model_name(config.name).kind == "name" and config.weights is None and not config.pretrained:
        raise ModelError(
            f"A teacher must have weights; {config.name} would be a network with random weights",
            got="neither a file nor pretrained weights",
            fix="add --teacher-weights FILE, or train it first with `richkd teach`.",
        )
    network = build_network(config, len(data.class_names), role="teacher")
    if network.class_names is not None:
        check_same_classes(data.class_names, network.class_names, where=f"the teacher {config.name}")
    return network


def log_resizing(network: Network, role: str, log: Log) -> None:
    """Log that a network of fixed resolution was built for another one than its own."""
    own = network.blueprint.resized_from
    if own is not None:
        log(f"{role}: {network.name} is built for {network.size} px (img_size) instead of its own {own} px")


def _open_vision(model: ModelConfig, opening: Opening) -> Teacher:
    config, name = opening.config, parse_model_name(model.name)
    if name.kind == "cache":
        stores, augmentations = opening.stores, opening.augmentations
        return open_imported(
            name.value, config, stores, augmentations, features=opening.features, log=opening.log
        )
    autocast = autocast_dtype(config.train.teacher_precision, opening.device)
    compiled = config.train.compile_teacher
    if name.kind != "folds":
        network = build_teacher(model, opening.data)
        log_resizing(network, "teacher", opening.log)
        return VisionTeacher(network, opening.device, autocast, compiled=compiled)
    if opening.features:
        raise ConfigError(
            "Out-of-fold teachers are several networks, whose features cannot be compared",
            got=f"{model.name} and a loss term that reads features",
            fix="use terms on logits only, such as --variant l.",
        )
    return open_folds(name.path, opening.data, opening.device, autocast, compiled=compiled)


def _make_names_unique(teachers: list[Teacher], models: tuple[ModelConfig, ...]) -> None:
    """Add the weights' file name, or a number, to names that occur twice: figures are kept by name."""
    counts = Counter(teacher.name for teacher in teachers)
    for number, (teacher, model) in enumerate(zip(teachers, models, strict=True), start=1):
        if counts[teacher.name] > 1:
            teacher.name += f" ({model.weights.stem if model.weights else number})"
    if len({teacher.name for teacher in teachers}) < len(teachers):
        for number, teacher in enumerate(teachers, start=1):
            teacher.name += f" #{number}"
