"""Evaluate one or several models on a split, on its images with corruptions, and on shifted images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from richkd.config.schema import EvaluateConfig
from richkd.core.logs import Log
from richkd.core.types import Output
from richkd.core.visible import counted
from richkd.core.waiting import still
from richkd.data.split import Split
from richkd.evaluate.model_report import ModelReport, PairedModels, compare, measure_model
from richkd.evaluate.predictors import NetworkPredictor, Predictor, predict_all, stores_by_framing
from richkd.evaluate.robustness import Robustness, measure_corrupted
from richkd.evaluate.shift import Shift, measure_shift
from richkd.evaluate.subjects import Subjects, corruptions_of, open_subjects
from richkd.export.from_checkpoint import Which
from richkd.metrics.calibration import fit_temperature
from richkd.metrics.cost import Cost, cost_of
from richkd.metrics.fidelity import Fidelity, measure_fidelity
from richkd.pipeline.assemble import Parts


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
    comparisons: tuple[PairedModels, ...]
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
    (these test images, or a calibration folder), if there is one and it is not the evaluated split.

    Args:
        models: folders of students or runs, checkpoints of runs, artifacts of `richkd export`, and networks
            as NAME=CHECKPOINT.
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
            than the data. All such errors are raised together, before anything is computed.
    """
    config = config or EvaluateConfig()
    subjects = open_subjects([str(model) for model in models], str(data), config, weights, checkpoint)
    for network in subjects.networks:
        if network.note:
            log(f"{network.name}: {network.note}")
    split, device = subjects.split, subjects.device
    outputs, fingerprint = _predict_split(subjects.predictors, split, device)
    temperatures = _temperatures(subjects)
    names = [network.name for network in subjects.networks]
    log(f"{counted(len(outputs), 'model')} evaluated on {counted(len(split), 'image')} of {split.name}")
    clean = {name: output.logits_BC for name, output in outputs.items()}
    # Before corruptions, which take longest, so that unreadable images of all folders are found early.
    shifts = _shifts(subjects, clean, temperatures)
    with still(f"figures and intervals of {len(outputs)} models"):
        reports = _model_reports(subjects, clean, temperatures)
        comparisons = _comparisons(clean, temperatures, split.labels_N)
    with still("cost of the models"):
        costs = {
            one.name: cost_of(one.network, device)
            for one in subjects.networks
            if isinstance(one, NetworkPredictor)
        }
    evaluation = Evaluation(
        split.name,
        subjects.data.class_names,
        reports,
        comparisons,
        costs,
        _fidelity(names, outputs) if config.teachers else {},
        _robustness(subjects, clean, temperatures, config, log),
        shifts,
    )
    return EvaluationRun(evaluation, split, outputs, fingerprint, subjects.parts)


def _model_reports(
    subjects: Subjects,
    clean: Mapping[str, Tensor],
    temperatures: Mapping[str, float],
) -> tuple[ModelReport, ...]:
    class_names, labels_N, tree = subjects.data.class_names, subjects.split.labels_N, subjects.hierarchy
    return tuple(
        measure_model(name, logits_NC, labels_N, class_names, temperature=temperatures[name], hierarchy=tree)
        for name, logits_NC in clean.items()
    )


def _comparisons(
    clean: Mapping[str, Tensor], temperatures: Mapping[str, float], labels_N: Tensor
) -> tuple[PairedModels, ...]:
    """Each model except the first, compared with the first."""
    first, *others = ((name, logits_NC, temperatures[name]) for name, logits_NC in clean.items())
    return tuple(compare(first, other, labels_N) for other in others)


def _robustness(
    subjects: Subjects,
    clean: Mapping[str, Tensor],
    temperatures: Mapping[str, float],
    config: EvaluateConfig,
    log: Log,
) -> tuple[Robustness, ...]:
    names = corruptions_of(config)
    if not names:
        return ()
    return measure_corrupted(
        _pixel_predictors(subjects),
        subjects.split,
        clean,
        temperatures,
        subjects.device,
        published=config.cifar_c,
        corruptions=names,
        log=log,
    )


def _shifts(
    subjects: Subjects, clean: Mapping[str, Tensor], temperatures: Mapping[str, float]
) -> tuple[Shift, ...]:
    labels_N, predictors, device = subjects.split.labels_N, _pixel_predictors(subjects), subjects.device
    return tuple(
        shift
        for name, images in subjects.shifts.items()
        for shift in measure_shift(name, images, predictors, clean, temperatures, labels_N, device)
    )


def _pixel_predictors(subjects: Subjects) -> list[Predictor]:
    """Predictors of the models that compute from pixels, which can be evaluated on any image."""
    predictors = (predictor.for_any_image() for predictor in subjects.predictors)
    return [predictor for predictor in predictors if predictor is not None]


def _temperatures(subjects: Subjects) -> dict[str, float]:
    """Temperature of each model: the stored one, else one that is fitted on the calibration split.

    It is 1 if no images are held out for it.
    """
    known = {
        name: temperature
        for predictor in subjects.predictors
        for name, temperature in zip(predictor.names, predictor.temperatures, strict=True)
    }
    held_out = subjects.data.splits.get("calibration")
    # On the images that are evaluated, no temperature is fitted.
    if held_out is None or held_out is subjects.split:
        return {name: temperature or 1.0 for name, temperature in known.items()}
    outputs, _ = _predict_split(subjects.predictors, held_out, subjects.device)
    return {
        name: temperature or fit_temperature(outputs[name].logits_BC, held_out.labels_N)
        for name, temperature in known.items()
    }


def _predict_split(
    predictors: Sequence[Predictor], split: Split, device: torch.device
) -> tuple[dict[str, Output], str]:
    """Outputs of each model on images as it sees them, and the SHA-256 of the first model's images."""
    stores = stores_by_framing(predictors, split)
    return predict_all(predictors, stores, device), stores[predictors[0].framings[0]].fingerprint()


def _fidelity(models: Sequence[str], outputs: Mapping[str, Output]) -> dict[str, tuple[Fidelity, ...]]:
    """Agreement of each given model with each of the other models, which are teachers and their fusion."""
    teachers = {name: output for name, output in outputs.items() if name not in models}
    return {
        model: tuple(measure_fidelity(name, outputs[model], output) for name, output in teachers.items())
        for model in models
    }
