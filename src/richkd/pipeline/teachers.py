"""Who teaches: vision teachers and a CLIP from their settings, and the fusion of what they say."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from richkd.config.schema import Config, ModelConfig
from richkd.core.errors import ClipError, ConfigError, DataError
from richkd.core.precision import autocast_dtype
from richkd.data.batches import Store
from richkd.data.classes import check_same_classes
from richkd.data.held_out import HELD_OUT
from richkd.data.hierarchy import read_hierarchy
from richkd.data.split import Data
from richkd.data.views import Augmentation
from richkd.fusion.feature_scale import FeatureScale, fit_feature_scale
from richkd.fusion.fusion import Fusion, HeldOut, fuse, identity_fusion, needs_held_out
from richkd.fusion.ood import fit_ood_weights
from richkd.methods.presets import Method
from richkd.models.build import Network, build_network
from richkd.teachers.cache.cached import uncached
from richkd.teachers.clip.prompt_weights import cross_fitted_nll, fit_prompt_weights, read_prompt_weights
from richkd.teachers.folds import PREFIX as FOLDS
from richkd.teachers.folds import open_folds
from richkd.teachers.precomputed.vision import PREFIX as IMPORTED
from richkd.teachers.precomputed.vision import open_imported
from richkd.teachers.predict import outputs_of
from richkd.teachers.vision import Teacher, VisionTeacher

if TYPE_CHECKING:
    from richkd.teachers.clip.model import ClipTeacher
    from richkd.teachers.precomputed.clip import GivenClip

Log = Callable[[str], None]
# Training images that say on what scale a teacher's features are.
FEATURE_IMAGES = 4096


def open_teachers(
    config: Config,
    method: Method,
    data: Data,
    stores: dict[str, Store],
    augmentations: Mapping[str, Augmentation],
    device: torch.device,
    log: Log,
) -> tuple[Teacher, ...]:
    """The teachers that a method needs: vision teachers in the order of the settings, then the CLIP.

    Raises:
        ConfigError: a teacher that the method needs and the settings lack.
        RichKDError: one that cannot be opened, or whose classes are not the data's.
    """
    clip_only = config.fusion.alpha == 0 and (config.fusion.feature_alpha == 0 or not method.remembers)
    selected = () if config.teacher is None else (config.teacher, *config.more_teachers)
    teachers: list[Teacher] = []
    if "teacher" in method.teachers and not (clip_only and not selected):
        if not selected:
            raise ConfigError(
                f"Method {config.method.name} needs a vision teacher",
                got="no teacher",
                fix="add --teacher NAME --teacher-weights FILE (make one with `richkd teach`), "
                "or distil from CLIP alone with --fusion.alpha 0 --fusion.feature_alpha 0.",
            )
        for one in selected:
            if one.name.startswith(IMPORTED):
                name = one.name.removeprefix(IMPORTED)
                teachers.append(
                    open_imported(name, config, stores, augmentations, features=method.remembers, log=log)
                )
            else:
                teachers.append(_vision(one, config, method, data, device))
        _tell_apart(teachers, selected)
    if "clip" in method.teachers:
        teachers.append(_clip(config, data, device))
    return tuple(teachers)


def weigh_prompts(
    config: Config, clip: Teacher, stores: Mapping[str, Store], device: torch.device, log: Log
) -> None:
    """Give a CLIP's prompt templates the weights that the settings ask for.

    Raises:
        ClipError: its single prompts are not known, or the file of weights does not fit them.
        DataError: weights are to be fitted, and there are no held-out images.
    """
    assert config.clip is not None
    selected = config.clip.prompt_weights
    if selected == "equal":
        return
    teacher: ClipTeacher | GivenClip = uncached(clip)  # type: ignore[assignment]
    prompts = teacher.prompts
    if prompts is None:
        raise ClipError(
            f"Weights of prompts need what each prompt makes of each class; {teacher.name} have class "
            "embeddings alone",
            got=f"clip.prompt_weights {selected}",
            fix="add 'prompt_features' and 'prompts' to the file, or leave the weights equal.",
        )
    if selected == "fitted":
        split = next((name for name in HELD_OUT if name in stores), None)
        if split is None:
            raise DataError(
                "Weights of prompts are fitted on held-out images",
                got="neither a calibration folder nor a validation split",
                fix="give --data.calibration DIR, --data.val_fraction 0.1 or "
                "--data.test_calibration_fraction 0.2.",
            )
        labels_N = stores[split].split.labels_N
        feats_ND = outputs_of(clip, stores[split], device).feats_BF
        weights_P = fit_prompt_weights(prompts, feats_ND, labels_N, teacher.logit_scale)
        fitted, equal = cross_fitted_nll(prompts, feats_ND, labels_N, teacher.logit_scale)
        log(
            f"prompts: weights fitted on {len(labels_N)} images of {split}; NLL {fitted:.4f} (cross-fitted), "
            f"with equal weights {equal:.4f}"
        )
    else:
        weights_P = read_prompt_weights(Path(selected).expanduser(), prompts.templates)
    order = weights_P.argsort(descending=True)[:3].tolist()
    largest = (f"{float(weights_P[place]):.2f} × '{prompts.templates[place]}'" for place in order)
    log(f"prompts: {', '.join(largest)}, …")
    teacher.class_embeddings_CD = prompts.class_embeddings(weights_P).float().to(teacher.class_embeddings_CD)


def fit_fusion(
    config: Config,
    method: Method,
    teachers: tuple[Teacher, ...],
    stores: dict[str, Store],
    device: torch.device,
    log: Log,
) -> Fusion:
    """The fusion that the settings describe, fitted on held-out images where it asks for them.

    Raises:
        DataError: it asks for them, and there are none.
    """
    clip = "clip" in method.teachers
    scales = [teacher.logit_scale for teacher in teachers]
    if len(teachers) == 1 and config.fusion.weights is None and scales[0] == 1.0:
        return identity_fusion()
    # α says how vision teachers and a CLIP share; nobody else shares by it.
    shared = clip and len(teachers) > 1
    unshared = config.fusion.model_copy(update={"alpha": None, "feature_alpha": None})
    settings = config.fusion if shared else unshared
    split = next((name for name in HELD_OUT if name in stores), None)
    doubts = config.data.unlabeled is not None and config.fusion.ood_quantile > 0
    held_out = None
    if needs_held_out(settings) or (doubts and split is not None):
        if split is None:
            raise DataError(
                f"Fusion preset '{settings.preset}' is fitted on held-out images",
                got="neither a calibration folder nor a validation split",
                fix="give --data.calibration DIR, --data.val_fraction 0.1, "
                "--data.test_calibration_fraction 0.2, or --fusion.preset paper.",
            )
        logits = [outputs_of(teacher, stores[split], device).logits_BC for teacher in teachers]
        names = [teacher.name for teacher in teachers]
        held_out = HeldOut(names, logits, stores[split].split.labels_N, split)
    fused = fuse(settings, scales, held_out, clip=clip)
    if doubts and held_out is not None:
        fused = replace(
            fused, trust=fit_ood_weights(fused.scales, held_out.logits, config.fusion.ood_quantile)
        )
    elif doubts:
        log("unlabeled images are believed in full: no held-out images say what is strange to a teacher")
    if method.remembers and config.fusion.features != "raw":
        fused = replace(fused, features=_feature_scales(config, teachers, stores["train"], device))
    multipliers = fused.multipliers
    names = [teacher.name for teacher in teachers]
    if multipliers:
        names = [f"{w:.4g} × {name}" for w, name in zip(multipliers, names, strict=True)]
    log(f"fusion: {', '.join(names)} ({fused.origin})")
    return fused


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


def _tell_apart(teachers: list[Teacher], selected: tuple[ModelConfig, ...]) -> None:
    """Name teachers of one network by their weights too, or by number: figures are kept by name."""
    counts = Counter(teacher.name for teacher in teachers)
    for number, (teacher, one) in enumerate(zip(teachers, selected, strict=True), start=1):
        if counts[teacher.name] > 1:
            teacher.name += f" ({one.weights.stem if one.weights else number})"
    if len({teacher.name for teacher in teachers}) < len(teachers):
        for number, teacher in enumerate(teachers, start=1):
            teacher.name += f" #{number}"


def _vision(
    selected: ModelConfig, config: Config, method: Method, data: Data, device: torch.device
) -> Teacher:
    autocast = autocast_dtype(config.train.teacher_precision, device)
    compiled = config.train.compile_teacher
    if not selected.name.startswith(FOLDS):
        return VisionTeacher(build_teacher(selected, data), device, autocast, compiled=compiled)
    if method.remembers:
        raise ConfigError(
            "Out-of-fold teachers are several networks, whose features do not compare",
            got=f"{selected.name} and a method that learns from features",
            fix="add --variant l.",
        )
    return open_folds(Path(selected.name.removeprefix(FOLDS)), data, device, autocast, compiled=compiled)


def _clip(config: Config, data: Data, device: torch.device) -> Teacher:
    if config.clip is None:
        raise ConfigError(
            f"Method {config.method.name} needs a CLIP",
            got="no clip",
            fix="add --clip NAME:TAG, local-dir:FOLDER or outputs:FILE, or use --method kd.",
        )
    if config.clip.name.startswith("outputs:"):
        from richkd.teachers.precomputed.clip import load_given

        keys = {name: split.keys() for name, split in data.splits.items()}
        return load_given(Path(config.clip.name.removeprefix("outputs:")), keys, data.class_names)
    # open_clip takes a second to import, which runs without a CLIP need not pay.
    from richkd.teachers.clip.load import clip_teacher

    above = read_hierarchy(config.data.hierarchy, data.class_names).names() if config.data.hierarchy else None
    return clip_teacher(config.clip, data.class_names, device, above)


def _feature_scales(
    config: Config, teachers: tuple[Teacher, ...], training: Store, device: torch.device
) -> tuple[FeatureScale, ...]:
    count = min(FEATURE_IMAGES, len(training.split))
    places_N = torch.linspace(0, len(training.split) - 1, count).long()
    isotropic = config.fusion.features == "phi-s"
    outputs = (outputs_of(teacher, training, device, places_N).feats_BF for teacher in teachers)
    return tuple(fit_feature_scale(feats_NF, isotropic=isotropic) for feats_NF in outputs)
