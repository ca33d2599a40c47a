"""Evaluate one or several models on a split, on its images with corruptions, and on shifted images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from richkd.config.loading import load_config
from richkd.config.schema import DataConfig, EvaluateConfig
from richkd.core.device import pick_device
from richkd.core.errors import ConfigError, DataError, nearest
from richkd.core.types import Output
from richkd.data.hierarchy import known_hierarchy, read_hierarchy
from richkd.data.sources import open_data
from richkd.data.split import Data, Split
from richkd.evaluate.corruptions.corrupt import GROUPS, TEST
from richkd.evaluate.model_report import Comparison, ModelReport, compare, measure_model
from richkd.evaluate.predictors import (
    NetworkPredictor,
    Predictor,
    open_network,
    open_stores,
    open_teachers,
    predict_all,
    run_of,
)
from richkd.evaluate.robustness import Robustness, measure_corrupted
from richkd.evaluate.shift import Shift, measure_shift
from richkd.export.from_checkpoint import Which
from richkd.metrics.calibration import fit_temperature
from richkd.metrics.cost import Cost, cost_of
from richkd.metrics.fidelity import Fidelity, measure_fidelity
from richkd.pipeline.assemble import Parts
from richkd.pipeline.teachers import Log


@dataclass(frozen=True)
class Evaluation:
    """The metrics of all models; made by `evaluate_models`.

    The models are in the order in which they were given, then the teachers and their fusion.

    Attributes:
        split: name of the split.
        class_names: classes of the data.
        model_reports: all metrics of each model.
        comparisons: each model compared with the first one.
        costs: parameters, FLOPs, size and latency of each given model, by name.
        fidelity: agreement of each given model with each teacher, by name of the model.
        robustness: error rates on corrupted images, of the models that compute from pixels.
        shifts: metrics on shifted images, of the models that compute from pixels.
    """

    split: str
    class_names: tuple[str, ...]
    model_reports: tuple[ModelReport, ...]
    comparisons: tuple[Comparison, ...]
    costs: dict[str, Cost]
    fidelity: dict[str, tuple[Fidelity, ...]]
    robustness: tuple[Robustness, ...] = ()
    shifts: tuple[Shift, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """The fields as a dictionary that can be written as JSON.

        Example:
            >>> evaluation = Evaluation("test", ("cat", "dog"), (), (), {}, {})
            >>> evaluation.to_dict()["classes"]
            ['cat', 'dog']
        """
        return {
            "split": self.split,
            "classes": list(self.class_names),
            "models": {model_report.name: model_report.to_dict() for model_report in self.model_reports},
            "comparisons": [comparison.to_dict() for comparison in self.comparisons],
            "costs": {name: cost.to_dict() for name, cost in self.costs.items()},
            "fidelity": {name: [row.to_dict() for row in rows] for name, rows in self.fidelity.items()},
            "robustness": [row.to_dict() for row in self.robustness],
            "shifts": [row.to_dict() for row in self.shifts],
        }


@dataclass(frozen=True)
class EvaluationRun:
    """An evaluation and the data that it was computed from; made by `evaluate_models`.

    Attributes:
        evaluation: the metrics.
        split: the images.
        outputs: outputs of each model, by name.
        fingerprint: SHA-256 of the pixels of the images.
        parts: the parts of the first run if its teachers were evaluated, else None.
    """

    evaluation: Evaluation
    split: Split
    outputs: dict[str, Output]
    fingerprint: str
    parts: Parts | None


@dataclass(frozen=True)
class _Subjects:
    """The images and the models of an evaluation. ``predictors`` are ``networks``, then the teachers."""

    data: Data
    split: Split
    networks: list[NetworkPredictor]
    predictors: list[Predictor]
    parts: Parts | None
    device: torch.device


def evaluate_models(
    models: Sequence[str | Path],
    data: str | Path,
    config: EvaluateConfig | None = None,
    *,
    weights: str | Path | None = None,
    checkpoint: Which | None = None,
    log: Log = lambda message: None,
) -> EvaluationRun:
    """Evaluate models on one split in float32, without and with temperature.

    Test images on which the first model's run was fitted (``data.test_calibration_fraction``) are excluded
    for all models. A model without a stored temperature gets one that is fitted on the calibration split
    (these test images, or a calibration folder), if there is one.

    Args:
        models: folders of students or runs, checkpoints of runs, and networks as NAME=CHECKPOINT.
        data: folder, list, parquet files, tar files or hub name of the images.
        config: what is measured; see `EvaluateConfig`.
        weights: checkpoint of the only model, which is then the name of a network.
        checkpoint: evaluate the ``"best"`` or ``"last"`` checkpoint of runs instead of their students. The
            last one is also used for a run without a student.
        log: receives progress messages, one line each.

    Returns:
        The metrics, with the images and outputs that they were computed from.

    Raises:
        RichKDError: the split, a model, a checkpoint or a folder does not exist, or a model has other classes
            than the data.
    """
    config = config or EvaluateConfig()
    checkpoints = _checkpoints([str(model) for model in models], weights)
    if checkpoint is not None and None not in checkpoints.values():
        raise ConfigError(
            f"--checkpoint {checkpoint} needs the folder of a run",
            got=", ".join(map(str, models)),
            fix="omit it for networks with a file of weights.",
        )
    subjects = _open_subjects(checkpoints, str(data), config, checkpoint)
    for network in subjects.networks:
        if network.note:
            log(f"{network.name}: {network.note}")
    split, device = subjects.split, subjects.device
    outputs, fingerprint = _predict_split(subjects.predictors, split, device)
    temperatures = _temperatures(subjects)
    names = [network.name for network in subjects.networks]
    log(f"{len(outputs)} models evaluated on {len(split):,} images of {split.name}")
    clean = {name: output.logits_BC for name, output in outputs.items()}
    evaluation = Evaluation(
        split.name,
        subjects.data.class_names,
        _model_reports(subjects, clean, temperatures, config.hierarchy),
        _comparisons(clean, temperatures, split.labels_N),
        {network.name: cost_of(network.network, device) for network in subjects.networks},
        _fidelity(names, outputs) if config.teachers else {},
        _robustness(subjects, clean, temperatures, config, log),
        _shifts(subjects, clean, temperatures, config.shift),
    )
    return EvaluationRun(evaluation, split, outputs, fingerprint, subjects.parts)


def _open_subjects(
    checkpoints: Mapping[str, Path | None], data: str, config: EvaluateConfig, which: Which | None
) -> _Subjects:
    first, device = Path(next(iter(checkpoints))), pick_device(config.device)
    settings, seed = _as_trained(first, data)
    names = ("label_column", "nested_classes", "test_calibration_fraction")
    changes = {name: getattr(config, name) for name in names}
    changes = {name: value for name, value in changes.items() if value is not None}
    opened = open_data(settings.model_copy(update=changes), seed)
    if config.split not in opened.splits:
        raise DataError(
            f"{data} has no split '{config.split}'",
            got=f"splits {', '.join(opened.splits)}",
            fix=nearest(config.split, opened.splits),
        )
    networks = [
        open_network(model, file, opened, data, device, checkpoint=which)
        for model, file in checkpoints.items()
    ]
    predictors: list[Predictor] = [*networks]
    parts: Parts | None = None
    if config.teachers:
        predictor, parts = open_teachers(run_of(first), data, device)
        predictors.append(predictor)
    return _Subjects(opened, opened.splits[config.split], networks, predictors, parts, device)


def _model_reports(
    subjects: _Subjects,
    clean: Mapping[str, Tensor],
    temperatures: Mapping[str, float],
    hierarchy: Path | None,
) -> tuple[ModelReport, ...]:
    class_names, labels_N = subjects.data.class_names, subjects.split.labels_N
    tree = known_hierarchy(class_names) if hierarchy is None else read_hierarchy(hierarchy, class_names)
    return tuple(
        measure_model(name, logits_NC, labels_N, class_names, temperature=temperatures[name], hierarchy=tree)
        for name, logits_NC in clean.items()
    )


def _comparisons(
    clean: Mapping[str, Tensor], temperatures: Mapping[str, float], labels_N: Tensor
) -> tuple[Comparison, ...]:
    """Each model except the first, compared with the first."""
    first, *others = ((name, logits_NC, temperatures[name]) for name, logits_NC in clean.items())
    return tuple(compare(first, other, labels_N) for other in others)


def _robustness(
    subjects: _Subjects,
    clean: Mapping[str, Tensor],
    temperatures: Mapping[str, float],
    config: EvaluateConfig,
    log: Log,
) -> tuple[Robustness, ...]:
    test, validation = config.corruptions, config.validation_corruptions
    names = selected_corruptions(test=test, validation=validation)
    if config.cifar_c is None and not names:
        return ()
    return measure_corrupted(
        _pixel_predictors(subjects),
        subjects.split,
        clean,
        temperatures,
        subjects.device,
        published=config.cifar_c,
        corruptions=names or TEST,
        log=log,
    )


def _shifts(
    subjects: _Subjects,
    clean: Mapping[str, Tensor],
    temperatures: Mapping[str, float],
    folders: Mapping[str, str],
) -> tuple[Shift, ...]:
    labels_N, class_names = subjects.split.labels_N, subjects.data.class_names
    predictors, device = _pixel_predictors(subjects), subjects.device
    return tuple(
        shift
        for name, path in folders.items()
        for shift in measure_shift(name, path, predictors, clean, temperatures, labels_N, class_names, device)
    )


def _pixel_predictors(subjects: _Subjects) -> list[Predictor]:
    """Predictors of the models that compute from pixels, which can be evaluated on any image."""
    predictors = (predictor.for_any_image() for predictor in subjects.predictors)
    return [predictor for predictor in predictors if predictor is not None]


def selected_corruptions(*, test: bool, validation: bool) -> tuple[str, ...]:
    """Names of the 15 test corruptions, of the 4 validation corruptions (reserved for tuning), or of both.

    Example:
        >>> len(selected_corruptions(test=True, validation=False))
        15
        >>> len(selected_corruptions(test=False, validation=True))
        4
    """
    return (*(TEST if test else ()), *(GROUPS["validation"] if validation else ()))


def _temperatures(subjects: _Subjects) -> dict[str, float]:
    """Temperature of each model: the stored one, else one that is fitted on the calibration split."""
    stored = {
        name: temperature
        for predictor in subjects.predictors
        for name, temperature in zip(predictor.names, predictor.temperatures, strict=True)
    }
    held_out = subjects.data.splits.get("calibration")
    if held_out is None:
        return stored
    outputs, _ = _predict_split(subjects.predictors, held_out, subjects.device)
    return {
        name: fit_temperature(outputs[name].logits_BC, held_out.labels_N)
        if temperature == 1.0
        else temperature
        for name, temperature in stored.items()
    }


def _predict_split(
    predictors: Sequence[Predictor], split: Split, device: torch.device
) -> tuple[dict[str, Output], str]:
    """Outputs of each model on images as it sees them, and the SHA-256 of the first model's images."""
    stores = open_stores(predictors, split)
    return predict_all(predictors, stores, device), stores[predictors[0].framings[0]].fingerprint()


def _checkpoints(models: Sequence[str], weights: str | Path | None) -> dict[str, Path | None]:
    """The checkpoint of each model, or None. An existing folder is never parsed as NAME=CHECKPOINT."""
    if not models:
        raise ConfigError(
            "At least one model must be evaluated", got="none", fix="richkd evaluate RUN --data DATA"
        )
    if weights is not None and len(models) > 1:
        raise ConfigError(
            "--weights can be given for one model only",
            got=", ".join(models),
            fix="write each network with its checkpoint as NAME=CHECKPOINT.",
        )
    result: dict[str, Path | None] = {}
    for model in models:
        name, equals, file = model.partition("=")
        if weights is None and equals and not Path(model).exists():
            result[name] = Path(file)
        else:
            result[model] = None if weights is None else Path(weights)
    if len(result) < len(models):
        raise ConfigError(
            "Models must have different names", got=", ".join(models), fix="give each model once."
        )
    return result


def _fidelity(models: Sequence[str], outputs: Mapping[str, Output]) -> dict[str, tuple[Fidelity, ...]]:
    """Agreement of each given model with each of the other models, which are teachers and their fusion."""
    teachers = {name: output for name, output in outputs.items() if name not in models}
    return {
        model: tuple(measure_fidelity(name, outputs[model], output) for name, output in teachers.items())
        for model in models
    }


def _as_trained(model: Path, data: str) -> tuple[DataConfig, int]:
    """Data settings and seed of the run that trained a model, if it used the same data; else the defaults.

    With these settings the splits are the same as in training, so no training image is in the test split.
    """
    for folder in (model, run_of(model)):
        if (folder / "config.yaml").is_file():
            config = load_config(folder / "config.yaml")
            if Path(config.data.path).resolve() == Path(data).resolve():
                return config.data.model_copy(update={"unlabeled": None}), config.train.seed
    return DataConfig(path=data), 0
