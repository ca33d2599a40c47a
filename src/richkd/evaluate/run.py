"""Evaluate models side by side: on a split, on its images corrupted, on other pictures of its classes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from richkd.config.loading import load_config
from richkd.config.schema import DataConfig
from richkd.core.errors import ConfigError, DataError, nearest
from richkd.core.types import Output
from richkd.data.batches import open_store
from richkd.data.hierarchy import Hierarchy, known_hierarchy, read_hierarchy
from richkd.data.split import Data, Split
from richkd.evaluate.corruptions.corrupt import GROUPS, TEST
from richkd.evaluate.model_report import Comparison, ModelReport, compare, measure_model
from richkd.evaluate.predictors import Predictor, open_network, open_teachers, predict_all
from richkd.evaluate.robustness import Robustness, measure_corrupted
from richkd.evaluate.shift import Shift, measure_shift
from richkd.metrics.calibration import fit_temperature
from richkd.metrics.cost import Cost, cost_of
from richkd.metrics.fidelity import Fidelity, measure_fidelity
from richkd.pipeline.assemble import Parts, open_splits


@dataclass(frozen=True)
class Evaluation:
    """Models on one split, in the order in which they were named; all others are compared with the first.

    ``fidelity`` has, for each model that was named, how closely it follows each of the teachers.
    ``robustness`` and ``shifts`` are of the models that look at pixels.
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
        """All of it as plain values, for JSON."""
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
    """An evaluation, and what it is made from: images, their SHA-256, each model's answers, the first run."""

    evaluation: Evaluation
    split: Split
    outputs: dict[str, Output]
    fingerprint: str
    parts: Parts | None


def evaluate_models(
    models: Sequence[str],
    data: str,
    *,
    weights: Path | None = None,
    split: str = "test",
    label_column: str | None = None,
    test_calibration_fraction: float | None = None,
    hierarchy: Path | None = None,
    teachers: bool = False,
    corruptions: Sequence[str] = (),
    published: Path | None = None,
    shifts: Mapping[str, str] | None = None,
    log: Callable[[str], None] = lambda message: None,
) -> EvaluationRun:
    """Figures of models on one split, in float32, own and at the temperature stored with a student.

    Test images that a run was fitted on (`data.test_calibration_fraction`) are excluded, for its student and
    for all other models. On these images, or on a calibration folder, a temperature is fitted for each model
    that comes without one.

    Args:
        models: folders of students or runs, and networks as NAME=FILE, the file being a checkpoint.
        weights: the checkpoint of the only model, a network's name.
        hierarchy: a file of superclasses; CIFAR-100's are known.
        teachers: also the teachers of the first run, and their fusion.
        corruptions: names of corruptions, at five severities each.
        published: a folder of CIFAR-C files, read instead of making corruptions.
        shifts: further folders of the same classes, by name.
        say: told of progress.

    Raises:
        RichKDError: no such split, model, weights or folder, or classes that are not the data's.
    """
    if weights is not None and len(models) > 1:
        raise ConfigError(
            "--weights belongs to one model",
            got=", ".join(models),
            fix="write each network with its checkpoint as NAME=FILE.",
        )
    checkpoints = dict.fromkeys(models, weights) if weights is not None else _checkpoints(models)
    if len(checkpoints) < len(models):
        raise ConfigError("Models are told apart by name", got=", ".join(models), fix="name each once.")
    models = list(checkpoints)
    settings, seed = _as_trained(Path(models[0]), data)
    changes = {"label_column": label_column, "test_calibration_fraction": test_calibration_fraction}
    settings = settings.model_copy(
        update={name: value for name, value in changes.items() if value is not None}
    )
    opened = open_splits(settings, seed)
    if split not in opened.splits:
        raise DataError(f"{data} has no split '{split}'", fix=nearest(split, opened.splits))
    selected = opened.splits[split]
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    networks = [open_network(model, file, opened, data, device) for model, file in checkpoints.items()]
    predictors: list[Predictor] = [*networks]
    parts: Parts | None = None
    if teachers:
        predictor, parts = open_teachers(Path(models[0]), data, device)
        predictors.append(predictor)
    outputs, fingerprint = _all_answers(predictors, selected, device)
    temperatures = _temperatures(predictors, opened, device)
    clean = {name: output.logits_BC for name, output in outputs.items()}
    labels_N, tree = selected.labels_N, _hierarchy(hierarchy, opened)
    model_reports = tuple(
        measure_model(
            name,
            logits_NC,
            labels_N,
            opened.class_names,
            temperature=temperatures[name],
            hierarchy=tree,
        )
        for name, logits_NC in clean.items()
    )
    first, *others = ((name, logits_NC, temperatures[name]) for name, logits_NC in clean.items())
    log(f"{len(outputs)} models judged on {len(selected):,} images of {split}")
    seeing = [able for predictor in predictors if (able := predictor.for_any_image()) is not None]
    robustness: tuple[Robustness, ...] = ()
    if published is not None or corruptions:
        names = corruptions or TEST
        robustness = measure_corrupted(
            seeing, selected, clean, temperatures, device, published=published, corruptions=names, log=log
        )
    moved: list[Shift] = []
    for name, path in (shifts or {}).items():
        moved += measure_shift(name, path, seeing, clean, temperatures, labels_N, opened.class_names, device)
    evaluation = Evaluation(
        split,
        opened.class_names,
        model_reports,
        tuple(compare(first, other, labels_N) for other in others),
        {predictor.name: cost_of(predictor.network, device) for predictor in networks},
        _followed(models, outputs) if teachers else {},
        robustness,
        tuple(moved),
    )
    return EvaluationRun(evaluation, selected, outputs, fingerprint, parts)


def chosen_corruptions(*, test: bool, validation: bool) -> tuple[str, ...]:
    """The 15 that are for testing, the 4 that are for tuning, both, or none."""
    return (*(TEST if test else ()), *(GROUPS["validation"] if validation else ()))


def _temperatures(predictors: Sequence[Predictor], data: Data, device: torch.device) -> dict[str, float]:
    """The temperature stored with each model; for others one that is fitted on calibration images."""
    stored = {
        n: t for predictor in predictors for n, t in zip(predictor.names, predictor.temperatures, strict=True)
    }
    held_out = data.splits.get("calibration")
    if held_out is None:
        return stored
    outputs, _ = _all_answers(predictors, held_out, device)
    return {
        name: fit_temperature(outputs[name].logits_BC, held_out.labels_N)
        if temperature == 1.0
        else temperature
        for name, temperature in stored.items()
    }


def _all_answers(
    predictors: Sequence[Predictor], split: Split, device: torch.device
) -> tuple[dict[str, Output], str]:
    """Every model's outputs, in the predictors' order, and the SHA-256 of the first one's images."""
    outputs: dict[str, Output] = {}
    fingerprints = {}
    for size in sorted({predictor.size for predictor in predictors}):
        alike = [predictor for predictor in predictors if predictor.size == size]
        store = open_store(split, size)
        outputs |= predict_all(alike, store, device)
        fingerprints[size] = store.fingerprint()
    ordered = {name: outputs[name] for predictor in predictors for name in predictor.names}
    return ordered, fingerprints[predictors[0].size]


def _checkpoints(models: Sequence[str]) -> dict[str, Path | None]:
    """Each model's checkpoint, where it is written as NAME=FILE; a folder that exists is never that."""
    result: dict[str, Path | None] = {}
    for model in models:
        name, equals, file = model.partition("=")
        if equals and not Path(model).exists():
            result[name] = Path(file)
        else:
            result[model] = None
    return result


def _followed(models: Sequence[str], outputs: Mapping[str, Output]) -> dict[str, tuple[Fidelity, ...]]:
    """How closely each model that was named follows each of the others, which are teachers."""
    teachers = {name: output for name, output in outputs.items() if name not in models}
    return {
        model: tuple(measure_fidelity(name, outputs[model], output) for name, output in teachers.items())
        for model in models
    }


def _hierarchy(path: Path | None, data: Data) -> Hierarchy | None:
    return known_hierarchy(data.class_names) if path is None else read_hierarchy(path, data.class_names)


def _as_trained(model: Path, data: str) -> tuple[DataConfig, int]:
    """How the run that made a student split these data: it is not to be tested on what it learned from."""
    for folder in (model, model.parent):
        if (folder / "config.yaml").is_file():
            config = load_config(folder / "config.yaml")
            if Path(config.data.path).resolve() == Path(data).resolve():
                return config.data.model_copy(update={"unlabeled": None}), config.train.seed
    return DataConfig(path=data), 0
