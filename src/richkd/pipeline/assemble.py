"""From settings to parts: opens the data, builds the networks, and makes sure that they fit each other.

Everything that can be found wrong before the first step is found here, by training and by
``richkd check`` alike.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from richkd.config.schema import Config, DataConfig
from richkd.core.precision import autocast_dtype
from richkd.core.types import UNLABELED
from richkd.data.batches import Store, TrainingOrder, open_store
from richkd.data.sources import open_data
from richkd.data.split import Data
from richkd.data.unlabeled import refuse_tested, with_unlabeled
from richkd.data.views import Augmentation, Clean, build_augmentation
from richkd.fusion.fusion import Fusion
from richkd.methods.presets import Method, find_method
from richkd.models.build import Network, build_network
from richkd.pipeline.controls import controlled
from richkd.pipeline.teachers import Log, fit_fusion, open_teachers, weigh_prompts
from richkd.teachers.cache.cached import CachedTeacher, with_cache
from richkd.teachers.vision import Teacher


@dataclass(frozen=True)
class Parts:
    """What a run is made of. ``teachers`` are in the order of fusion's weights: vision teacher, CLIP."""

    config: Config
    data: Data
    stores: dict[str, Store]
    student: Network
    teachers: tuple[Teacher, ...]
    fusion: Fusion | None
    method: Method
    augmentation: Augmentation
    device: torch.device
    autocast: torch.dtype | None

    def order(self, rank: int = 0, world: int = 1) -> TrainingOrder:
        """Which images make up each step, for one of ``world`` processes."""
        labels_N, settings = self.data.splits["train"].labels_N, self.config.train
        unlabeled = int((labels_N == UNLABELED).sum())
        share = self.config.data.unlabeled_fraction
        return TrainingOrder(len(labels_N), settings.batch_size, settings.seed, rank, world, unlabeled, share)

    def flush_caches(self) -> None:
        """Write what teachers' caches have not yet written."""
        for teacher in self.teachers:
            if isinstance(teacher, CachedTeacher):
                teacher.flush()


def assemble(config: Config, device: torch.device, log: Log = lambda message: None) -> Parts:
    """Open and build everything that a run needs.

    Args:
        config: the settings.
        device: where student and teachers run.
        say: told what was found and fitted, a line at a time.

    Raises:
        RichKDError: whatever does not exist, cannot be read or does not fit, by name.
    """
    method = find_method(config.method)
    data = open_splits(config.data, config.train.seed)
    classes = len(data.class_names)
    log(
        f"data: {data.path}, {classes} classes, "
        + ", ".join(f"{len(s):,} {n}" for n, s in data.splits.items())
    )
    if config.data.unlabeled is not None:
        refuse_tested(data, config.train.workers)
        count = int((data.splits["train"].labels_N == UNLABELED).sum())
        log(f"unlabeled: {count:,} of the training images, from {config.data.unlabeled}")
    student = build_student(config, data)
    source_size = config.data.size or student.size
    stores = open_stores(config, data, source_size, device)
    autocast = autocast_dtype(config.train.precision, device)
    training = build_augmentation(config.augment, source_size)
    augmentations = {name: training if name == "train" else Clean(source_size) for name in stores}
    teachers = tuple(
        with_cache(
            teacher,
            config.cache,
            stores,
            augmentations,
            data.class_names,
            seed=config.train.seed,
            features=method.remembers,
            log=log,
        )
        for teacher in open_teachers(config, method, data, stores, augmentations, device, log)
    )
    if "clip" in method.teachers:
        weigh_prompts(config, teachers[-1], stores, device, log)
    for teacher in teachers:
        log(f"teacher: {teacher.name}, feature width {teacher.feature_width}")
    fused = fit_fusion(config, method, teachers, stores, device, log) if teachers else None
    if fused is not None and config.fusion.control is not None:
        teachers, fused = controlled(config, method, teachers, fused, stores["train"], device)
        log(f"control: {config.fusion.control} ({fused.origin})")
    return Parts(
        config,
        data,
        stores,
        student,
        teachers,
        fused,
        method,
        training,
        device,
        autocast,
    )


def open_splits(config: DataConfig, seed: int) -> Data:
    """The data that the settings name, with their splits; unlabeled images are at the end of train.

    Raises:
        RichKDError: as `open_data` and `with_unlabeled`.
    """
    data = open_data(
        config.path,
        image_column=config.image_column,
        label_column=config.label_column,
        key_column=config.key_column,
        class_names_file=config.class_names,
        val_fraction=config.val_fraction,
        test_fraction=config.test_fraction,
        calibration=config.calibration,
        test_calibration_fraction=config.test_calibration_fraction,
        exclude_fold=config.exclude_fold,
        beside=() if config.unlabeled is None else (Path(config.unlabeled),),
        seed=seed,
    )
    if config.unlabeled is None:
        return data
    image, key = config.image_column, config.key_column
    return with_unlabeled(data, config.unlabeled, image_column=image, key_column=key)


def open_stores(
    config: Config, data: Data, size: int, device: torch.device | None = None
) -> dict[str, Store]:
    """The source images of each split at ``size`` pixels, in memory or streamed as the settings say."""
    room, workers = config.data.in_memory_gb, config.train.workers
    return {
        name: open_store(split, size, in_memory_gb=room, workers=workers, device=device)
        for name, split in data.splits.items()
    }


def build_student(config: Config, data: Data) -> Network:
    """The student, initialized from the run's seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.train.seed)
        return build_network(config.student, len(data.class_names), role="student")
