"""Opening teachers from their settings: vision networks, teachers of folds, imported outputs, and a CLIP."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import timm
import torch

from richkd.config.model_name import parse_model_name
from richkd.config.schema import Config, DataConfig, ModelConfig
from richkd.core.errors import ConfigError, ModelError
from richkd.core.files import hash_tensors, write_atomically
from richkd.core.home import expanded
from richkd.core.lock import FileLock
from richkd.core.lock_owners import Locked
from richkd.core.logs import Log
from richkd.core.presence import exists
from richkd.core.processes import world
from richkd.core.types import UNLABELED
from richkd.data.batches import CleanStore, Resident, Streamed, open_store
from richkd.data.classes import check_same_classes
from richkd.data.framing import Framing
from richkd.data.hierarchy import read_hierarchy
from richkd.data.split import Data
from richkd.data.stores import Stores
from richkd.data.views import Augmentation
from richkd.models.build import Network, build_network
from richkd.models.create import unknown_model
from richkd.models.speed import SPEED, Speed, SpeedChooser, read_speeds, sealed
from richkd.teachers.base import Teacher
from richkd.teachers.fold_blend import TRAINING, FoldBlend, InFold
from richkd.teachers.fold_record import full_teacher
from richkd.teachers.folds import Classifier, open_folds
from richkd.teachers.precomputed.vision import open_imported
from richkd.teachers.sharded import ShardedTeacher
from richkd.teachers.vision import VisionTeacher


@dataclass(frozen=True)
class Opening:
    """What opening a teacher may depend on.

    Attributes:
        features: whether a loss term reads features.
        featured: positions of the vision teachers whose features a loss term reads.
        log: receives a line for everything worth knowing.
        chooser: chooses the precision of networks.
    """

    config: Config
    data: Data
    device: torch.device
    features: bool
    log: Log
    chooser: SpeedChooser
    featured: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Networks:
    """The teachers that need no images to be opened; the resolution of source images follows from them.

    Attributes:
        vision: the vision teachers in the order of the settings; None in the place of imported outputs.
        clip: the CLIP, or None.
    """

    vision: tuple[Teacher | None, ...]
    clip: Teacher | None

    def __iter__(self) -> Iterator[Teacher | None]:
        return iter((*self.vision, self.clip))


def open_networks(opening: Opening, *, vision: bool, clip: bool) -> Networks:
    """Open the vision teachers and the CLIP of the settings.

    Raises:
        RichKDError: a teacher that cannot be opened, or whose classes are not the data's.
    """
    models = opening.config.teachers if vision else ()
    teachers = tuple(_open_vision(model, number, opening) for number, model in enumerate(models, start=1))
    return Networks(teachers, open_clip_teacher(opening) if clip else None)


def with_imported(
    vision: Sequence[Teacher | None], opening: Opening, stores: Stores, training: Augmentation
) -> tuple[Teacher, ...]:
    """The vision teachers, each with a name of its own, with imported outputs in the places of None.

    Raises:
        CacheError: imported outputs do not exist, or belong to other images or views.
    """
    config = opening.config
    teachers: list[Teacher] = []
    for teacher, model in zip(vision, config.teachers, strict=False):
        if teacher is not None:
            teachers.append(teacher)
            continue
        name = parse_model_name(model.name).value
        images = {split: identity_store(stores, config.data, split) for split in stores.names}
        augmentations = {split: training if split == "train" else images[split].clean for split in images}
        teachers.append(
            open_imported(name, config, images, augmentations, features=opening.features, log=opening.log)
        )
    _make_names_unique(teachers, config.teachers[: len(teachers)])
    return tuple(teachers)


def identity_store(stores: Stores, data: DataConfig, split: str) -> CleanStore:
    """Images of a split by which imported outputs are recognized.

    They have the student's resolution, or that of ``data.size``, whatever other teachers a run has.
    """
    training = stores.training
    framing = Framing(data.size or stores.framing.size)
    if split == "train" and isinstance(training, Resident | Streamed) and training.framing == framing:
        return training
    if split != "train" and framing == stores.framing:
        return stores.clean(split)
    return open_store(stores.splits[split], framing, in_memory_gb=data.in_memory_gb, workers=stores.workers)


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
    from richkd.teachers.clip.load import open_clip_teacher

    hierarchy = config.data.hierarchy
    superclasses = read_hierarchy(hierarchy, data.class_names).names() if hierarchy else None
    return open_clip_teacher(
        config.clip, data.class_names, opening.device, superclasses, divided=_are_divided(config)
    )


def build_teacher(config: ModelConfig, data: Data) -> Network:
    """A vision teacher's network, whose classes are the data's.

    Raises:
        ModelError: another architecture or number of classes, or no weights.
        ClassError: its saved class names differ, or their order does.
    """
    parsed = parse_model_name(config.name)
    torchvision = config.name.startswith("torchvision.models:")
    if (parsed.kind == "name" or torchvision) and config.weights is None and not config.pretrained:
        if not torchvision and not timm.is_model(config.name.partition(".")[0]):
            raise unknown_model(config.name, "teacher")
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
    size = network.blueprint.resized_from
    if size is not None:
        log(f"{role}: {network.name} is built for {network.size} px (img_size) instead of its own {size} px")


def _open_vision(model: ModelConfig, number: int, opening: Opening) -> Teacher | None:
    name = parse_model_name(model.name)
    if name.kind == "cache":
        return None
    if name.kind != "folds":
        return _open_network(model, f"teacher-{number}", opening)
    if number - 1 in opening.featured:
        raise ConfigError(
            "Out-of-fold teachers are several networks, whose features cannot be compared: each network has "
            "a feature space of its own",
            got=f"{model.name} and a loss term that reads its features",
            fix="use terms on logits only, such as --variant l, or give these terms the target clip or a "
            "single teacher.",
        )
    folds = open_folds(name.path, opening.data, partial(_teachers_of, f"teacher-{number}", opening))
    share = model.used_fold_share
    if share == 1 or TRAINING not in opening.data.splits:
        return folds
    training, full = opening.data.splits[TRAINING], full_teacher(name.path)
    in_fold: Teacher = InFold(folds, training)
    if full is not None:
        in_fold = _open_network(ModelConfig(name=f"local-dir:{full}"), f"teacher-{number}-full", opening)
        in_fold.only_splits = (TRAINING,)
    opening.log(
        f"teacher {folds.name}: {share:g} of it, and {1 - share:g} of {in_fold.name}, for labeled images"
    )
    return FoldBlend(folds, in_fold, share, training.labels_N != UNLABELED)


def _are_divided(config: Config) -> bool:
    return config.train.shard_teachers and world() > 1


def _open_network(model: ModelConfig, name: str, opening: Opening) -> Classifier:
    network = build_teacher(model, opening.data)
    log_resizing(network, "teacher", opening.log)
    (teacher,) = _teachers_of(name, opening, [network])
    return teacher


def _teachers_of(name: str, opening: Opening, networks: Sequence[Network]) -> list[Classifier]:
    """Teachers with the precision that is best for the first network."""
    train, device = opening.config.train, opening.device
    if train.shard_teachers and train.compile_teacher:
        raise ConfigError(
            "A teacher whose weights are divided cannot be compiled",
            got="train.shard_teachers and train.compile_teacher",
            fix="remove one of the two.",
        )
    if _are_divided(opening.config):
        # A measurement would need the whole network on the device.
        autocast = opening.chooser.first(train.teacher_precision, "never").autocast
        return [ShardedTeacher(network, device, autocast) for network in networks]
    autocast = _autocast_of(opening, name, networks[0])
    return [VisionTeacher(network, device, autocast, compiled=train.compile_teacher) for network in networks]


def _autocast_of(opening: Opening, name: str, network: Network) -> torch.dtype | None:
    """The precision in which a teacher computes training images.

    Stored outputs depend on it. So a teacher cache records the choice for later runs.
    """
    chooser, root = opening.chooser, opening.config.cache.dir
    precision = opening.config.train.teacher_precision
    if root is None or precision != "auto" or not chooser.measure:
        return chooser.choose(name, network, precision, "never", trained=False).autocast
    path = expanded(root) / SPEED
    key = f"{hash_tensors(network.model.state_dict())[:16]} {network.size} px {opening.device.type}"
    recorded = read_speeds(path)
    if exists(path) and not recorded:
        opening.log(f"warning: {path} is damaged; the precision of teachers is measured again")
    if name not in chooser.speeds and key in recorded:
        chooser.speeds[name] = recorded[key]
    speed = chooser.choose(name, network, precision, "never", trained=False)
    if key not in recorded:
        chooser.speeds[name] = _record(path, key, chooser.speeds[name])
        return Speed(**chooser.speeds[name]).autocast
    return speed.autocast


def _record(path: Path, key: str, choice: dict[str, Any]) -> dict[str, Any]:
    """Record the choice for a network; returns that of another process if it was recorded meanwhile."""
    lock = FileLock(path.with_name(f".{path.name}.lock"))
    with ExitStack() as held:
        with suppress(OSError, Locked):
            path.parent.mkdir(parents=True, exist_ok=True)
            held.enter_context(lock)
        recorded = read_speeds(path)
        if key in recorded:
            return recorded[key]
        text = json.dumps(sealed(recorded | {key: choice}), indent=2)
        write_atomically(path, f"{text}\n".encode())
    return choice


def _make_names_unique(teachers: list[Teacher], models: tuple[ModelConfig, ...]) -> None:
    """Add the weights' file name, or a number, to names that occur twice: figures are kept by name."""
    counts = Counter(teacher.name for teacher in teachers)
    for number, (teacher, model) in enumerate(zip(teachers, models, strict=True), start=1):
        if counts[teacher.name] > 1:
            teacher.name += f" ({model.weights.stem if model.weights else number})"
    if len({teacher.name for teacher in teachers}) < len(teachers):
        for number, teacher in enumerate(teachers, start=1):
            teacher.name += f" #{number}"
