"""From settings to parts: opens the data, builds the networks, and makes sure that they fit each other.

Everything that can be found wrong before the first step is found here, by training and by
``richkd check`` alike.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from richkd.config import Config, DataConfig, FusionConfig, ModelConfig
from richkd.controls import controlled
from richkd.data.batches import Store, TrainingOrder, open_store
from richkd.data.sources import open_data
from richkd.data.split import Data
from richkd.data.unlabeled import refuse_tested, with_unlabeled
from richkd.data.views import Clean, Recipe, recipe
from richkd.errors import ConfigError, DataError, check_same_classes
from richkd.evaluate.predict import outputs_of
from richkd.fusion.fusion import Fusion, HeldOut, alone, fuse, needs_held_out
from richkd.fusion.trust import fit_trust
from richkd.methods import Method, find_method
from richkd.models.build import Network, build_network
from richkd.records import UNLABELED
from richkd.teachers.banked import BankedTeacher, with_banks
from richkd.teachers.folds import PREFIX as FOLDS
from richkd.teachers.folds import open_folds
from richkd.teachers.imported import PREFIX, open_imported
from richkd.teachers.vision import Teacher, VisionTeacher

Say = Callable[[str], None]
HELD_OUT = ("calibration", "val")


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
    recipe: Recipe
    device: torch.device
    autocast: torch.dtype | None

    def order(self, rank: int = 0, world: int = 1) -> TrainingOrder:
        """Which images make up each step, for one of ``world`` processes."""
        labels_N, settings = self.data.splits["train"].labels_N, self.config.train
        unlabeled = int((labels_N == UNLABELED).sum())
        share = self.config.data.unlabeled_share
        return TrainingOrder(len(labels_N), settings.batch_size, settings.seed, rank, world, unlabeled, share)

    def flush_banks(self) -> None:
        """Write what teachers' banks have not yet written."""
        for teacher in self.teachers:
            if isinstance(teacher, BankedTeacher):
                teacher.flush()


def assemble(config: Config, device: torch.device, say: Say = lambda message: None) -> Parts:
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
    say(
        f"data: {data.path}, {classes} classes, "
        + ", ".join(f"{len(s):,} {n}" for n, s in data.splits.items())
    )
    if config.data.unlabeled is not None:
        refuse_tested(data, config.train.workers)
        count = int((data.splits["train"].labels_N == UNLABELED).sum())
        say(f"unlabelled: {count:,} of the training images, from {config.data.unlabeled}")
    student = build_student(config, data)
    source_size = config.data.size or student.size
    stores = open_stores(config, data, source_size, device)
    autocast = autocast_dtype(config.train.precision, device)
    training = recipe(config.views, source_size)
    recipes = {name: training if name == "train" else Clean(source_size) for name in stores}
    teachers = tuple(
        with_banks(
            teacher,
            config.bank,
            stores,
            recipes,
            data.class_names,
            seed=config.train.seed,
            features=method.remembers,
            say=say,
        )
        for teacher in _teachers(config, method, data, stores, recipes, device, say)
    )
    for teacher in teachers:
        say(f"teacher: {teacher.name}, feature width {teacher.feature_width}")
    fused = _fusion(config, teachers, stores, device, say) if teachers else None
    if fused is not None and config.fusion.control is not None:
        teachers, fused = controlled(config, teachers, fused, stores["train"], device)
        say(f"control: {config.fusion.control} ({fused.origin})")
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
    """The data that the settings name, with their splits; unlabelled images are at the end of train.

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
        held_out_of_test=config.held_out_of_test,
        leave_out=config.leave_out,
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
    room, workers = config.data.resident_gb, config.train.workers
    return {
        name: open_store(split, size, resident_gb=room, workers=workers, device=device)
        for name, split in data.splits.items()
    }


def build_student(config: Config, data: Data) -> Network:
    """The student, initialised from the run's seed alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.train.seed)
        return build_network(config.student, len(data.class_names), role="student")


def autocast_dtype(precision: str, device: torch.device) -> torch.dtype | None:
    """bfloat16 where asked for, or where "auto" finds hardware for it; None for float32."""
    if precision == "auto":
        if device.type == "cuda":
            precision = "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
        else:
            precision = "bf16" if _cpu_has_bf16() else "fp32"
    return torch.bfloat16 if precision == "bf16" else None


def build_teacher(config: ModelConfig, data: Data) -> Network:
    """A vision teacher whose classes are the data's.

    Raises:
        ModelError: another architecture or number of classes.
        ClassError: its saved class names are others, or in another order.
    """
    network = build_network(config, len(data.class_names), role="teacher")
    if network.class_names is not None:
        check_same_classes(data.class_names, network.class_names, where=f"the teacher {config.name}")
    return network


def _teachers(
    config: Config,
    method: Method,
    data: Data,
    stores: dict[str, Store],
    recipes: dict[str, Recipe],
    device: torch.device,
    say: Say,
) -> tuple[Teacher, ...]:
    clip_only = config.fusion.alpha == 0 and (config.fusion.lam == 0 or not method.remembers)
    teachers: list[Teacher] = []
    if "teacher" in method.experts and not (clip_only and config.teacher is None):
        if config.teacher is None:
            raise ConfigError(
                f"Method {config.method.name} needs a vision teacher",
                got="no teacher",
                fix="add --teacher NAME --teacher-weights FILE (make one with `richkd teach`), "
                "or distil from CLIP alone with --fusion.alpha 0 --fusion.lam 0.",
            )
        if config.teacher.name.startswith(PREFIX):
            teachers.append(open_imported(config, stores, recipes, features=method.remembers, say=say))
        else:
            teachers.append(_vision(config.teacher, config, method, data, device))
    if "clip" in method.experts:
        teachers.append(_clip(config, data, device))
    return tuple(teachers)


def _vision(chosen: ModelConfig, config: Config, method: Method, data: Data, device: torch.device) -> Teacher:
    autocast = autocast_dtype(config.train.teacher_precision, device)
    compiled = config.train.compile_teacher
    if not chosen.name.startswith(FOLDS):
        return VisionTeacher(build_teacher(chosen, data), device, autocast, compiled=compiled)
    if method.remembers:
        raise ConfigError(
            "Out-of-fold teachers are several networks, whose features do not compare",
            got=f"{chosen.name} and a method that learns from features",
            fix="add --variant l.",
        )
    return open_folds(Path(chosen.name.removeprefix(FOLDS)), data, device, autocast, compiled=compiled)


def _clip(config: Config, data: Data, device: torch.device) -> Teacher:
    if config.clip is None:
        raise ConfigError(
            f"Method {config.method.name} needs a CLIP",
            got="no clip",
            fix="add --clip NAME:TAG, local-dir:FOLDER or outputs:FILE, or use --method kd.",
        )
    if config.clip.name.startswith("outputs:"):
        from richkd.teachers.given import load_given

        keys = {name: split.keys() for name, split in data.splits.items()}
        return load_given(Path(config.clip.name.removeprefix("outputs:")), keys, data.class_names)
    # open_clip takes a second to import, which runs without a CLIP need not pay.
    from richkd.teachers.clip_load import clip_teacher

    return clip_teacher(config.clip, data.class_names, device)


def _fusion(
    config: Config,
    teachers: tuple[Teacher, ...],
    stores: dict[str, Store],
    device: torch.device,
    say: Say,
) -> Fusion:
    settings = _settings_of_experts(config.fusion, len(teachers))
    scales = [teacher.logit_scale for teacher in teachers]
    if len(teachers) == 1 and settings.weights is None and scales[0] == 1.0:
        return alone()
    held_out, split = None, next((name for name in HELD_OUT if name in stores), None)
    doubts = config.data.unlabeled is not None and config.fusion.distrust > 0
    if needs_held_out(settings) or (doubts and split is not None):
        if split is None:
            raise DataError(
                f"Fusion preset '{settings.preset}' is fitted on held-out images",
                got="neither a calibration folder nor a validation split",
                fix="give --data.calibration DIR, --data.val_fraction 0.1, or --fusion.preset paper.",
            )
        logits = [outputs_of(teacher, stores[split], device).logits_BC for teacher in teachers]
        names = [teacher.name for teacher in teachers]
        held_out = HeldOut(names, logits, stores[split].split.labels_N, split)
    fused = fuse(settings, scales, held_out)
    if doubts and held_out is not None:
        trust = fit_trust(fused.scales, held_out.logits, config.fusion.distrust)
        fused = replace(fused, trust=trust)
    elif doubts:
        say("unlabelled images are believed in full: no held-out images say what is strange to an expert")
    multipliers = fused.multipliers
    if multipliers:
        parts = (f"{w:.4g} × {t.name}" for w, t in zip(multipliers, teachers, strict=True))
        say(f"fusion: {', '.join(parts)} ({fused.origin})")
    else:
        say(f"fusion: {', '.join(t.name for t in teachers)} ({fused.origin})")
    return fused


def _settings_of_experts(config: FusionConfig, experts: int) -> FusionConfig:
    # α says how two experts share; a single one has nothing to share with.
    return config if experts == 2 else config.model_copy(update={"alpha": None, "lam": None})


def _cpu_has_bf16() -> bool:
    # Without these instructions bfloat16 is emulated, and slower than float32.
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
