"""Open the models that are evaluated: a saved student, a network with a file of weights, a run's teachers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from richkd.config.evaluation_data import for_evaluation
from richkd.config.loading import load_config
from richkd.config.model_name import parse_model_name
from richkd.config.schema import REST, CacheConfig, Config, FusionConfig, ModelConfig
from richkd.core.errors import ConfigError, DataError
from richkd.core.presence import is_file
from richkd.data.classes import check_same_classes
from richkd.data.split import Data
from richkd.evaluate.predictors import NetworkPredictor, Predictor, TeachersPredictor, stored
from richkd.export.from_checkpoint import Which
from richkd.export.own_data import is_data_of
from richkd.export.student import load_student
from richkd.fusion.by_label import read_by_label
from richkd.methods.objective import method_label
from richkd.models.build import build_network
from richkd.pipeline.assemble import Parts, assemble
from richkd.pipeline.sharpen import read_factors


def open_network(
    model: str,
    weights: Path | None,
    data: Data,
    where: str,
    device: torch.device,
    *,
    checkpoint: Which | None = None,
) -> NetworkPredictor:
    """Open a saved student, the student or a checkpoint of a run, or a network with a file of weights.

    Args:
        model: folder of a student or run, or checkpoint of a run; with ``weights``, the name of a network.
        weights: checkpoint of the network; None for a folder.
        data: the data that the model is evaluated on.
        where: what the data are called in error messages.
        device: device that the network is moved to.
        checkpoint: see :func:`~richkd.export.student.load_student`.

    Returns:
        The network as a predictor, in evaluation mode. Its temperature is the stored one, or None.

    Raises:
        RichKDError: the folder, network or weights do not exist, or the classes differ from the data's.
    """
    if weights is not None:
        config = ModelConfig(name=model, weights=weights)
        network, temperature, note = build_network(config, len(data.class_names), role="student"), None, None
    else:
        student = load_student(model, checkpoint)
        check_same_classes(data.class_names, student.class_names, where=f"student {model}", reference=where)
        network, temperature, note = student.network, stored(student.temperature), student.note
    network = network.to(device).to(memory_format=torch.channels_last).eval()
    return NetworkPredictor(model, network, temperature, note)


def open_teachers(run: str | Path, data: str, device: torch.device) -> tuple[Predictor, Parts]:
    """Open the teachers of a run and their fusion.

    Args:
        run: folder of the run.
        data: the data that the teachers are evaluated on. The run's data may have moved. On other data, only
            teachers that compute from pixels are evaluated.
        device: device that the networks are moved to.

    Returns:
        The predictor, and the parts of the run.

    Raises:
        DataError: ``run`` is not the folder of a run, or all teachers are stored outputs of other images.
        ConfigError: the run has no teachers.
    """
    run = Path(run)
    config = _settings_of(run)
    same_data = is_data_of(run, config, data)
    if same_data:
        # The data may have moved since the run.
        config = config.model_copy(update={"data": config.data.model_copy(update={"path": data})})
    # Held-out images are evaluated with the fusions that the run made for its training images.
    parts = assemble(
        _without_training_settings(config), device, factors=read_factors(run), fusions=read_by_label(config)
    )
    if parts.fusion is None:
        raise ConfigError(
            f"The run {run} has no teachers",
            got=f"method {method_label(config)}",
            fix="omit --teachers.",
        )
    source = parts.main_source
    # Loss terms can have different targets; the fusion is evaluated only if it includes all teachers.
    fusion = source.fusion if source and len(source.teachers) == len(parts.teachers) > 1 else None
    labeled = source.labeled if source and fusion else None
    predictor = TeachersPredictor(parts.teachers, fusion, parts.student.framing, labeled=labeled)
    if same_data:
        # A cache of the top-k logits does not have the complete outputs that the metrics need.
        complete = config.cache.dir is not None and config.cache.top_k is None
        if complete:
            predictor = replace(predictor, cache=config.cache, class_names=parts.data.class_names)
        return predictor, parts
    for_other_data = predictor.for_any_image()
    if for_other_data is None:
        raise DataError(
            f"The teachers of {run} are stored outputs for the images of {config.data.path}",
            got=f"images of {data}",
            fix="omit --teachers, or evaluate on the data of the run.",
        )
    return for_other_data, parts


def _settings_of(run: Path) -> Config:
    if not is_file(run / "config.yaml"):
        raise DataError(
            f"--teachers needs the folder of a run, whose settings name the teachers; {run} is not one",
            got="no config.yaml",
            fix="give a run folder as the first model.",
        )
    return load_config(run / "config.yaml")


def _without_training_settings(config: Config) -> Config:
    """The settings of a run without those that only training needs: images in memory, compiling, caches.

    Held-out images are computed in float32 and without compiling anyway.
    """
    train = config.train.model_copy(update={"compile": "never", "compile_teacher": False})
    if any(parse_model_name(teacher.name).kind == "cache" for teacher in config.teachers):
        # Imported outputs exist only in the cache, for the images exactly as training opened them.
        return config.model_copy(update={"train": train})
    # Unlike a student, teachers are opened with the training images, and `rest` is a part of them that cannot
    # be gone: without it, training images would be missing.
    data = config.data if config.data.unlabeled == REST else for_evaluation(config.data)
    data = data.model_copy(update={"in_memory_gb": 0.0})
    # Settings of unlabeled images and of the cache would be rejected as unused without them.
    groups = {"labeled": None, "unlabeled": None}
    fusion = config.fusion.model_copy(update={"ood_quantile": FusionConfig().ood_quantile} | groups)
    return config.model_copy(update={"data": data, "train": train, "fusion": fusion, "cache": CacheConfig()})
