"""Evaluate models side by side on any data: saved students, a run's teachers, networks with a checkpoint."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from richkd.assemble import assemble, open_splits
from richkd.config import DataConfig, ModelConfig
from richkd.data.batches import open_store
from richkd.data.hierarchy import Hierarchy, known_hierarchy, read_hierarchy
from richkd.data.split import Data, Split
from richkd.errors import ConfigError, DataError, check_same_classes, nearest
from richkd.evaluate.cost import Cost, cost_of
from richkd.evaluate.judge import Comparison, Judgement, compare, judge
from richkd.evaluate.predict import logits_of, outputs_of
from richkd.export import load_student
from richkd.models.build import Network, build_network
from richkd.settings import load_config


@dataclass(frozen=True)
class Answers:
    """What one model says of every image of a split: logits of its own probabilities, and its temperature."""

    name: str
    logits_NC: Tensor
    temperature: float
    cost: Cost | None = None


@dataclass(frozen=True)
class Evaluation:
    """Models on one split, in the order in which they were named; all others are compared with the first."""

    split: str
    judgements: tuple[Judgement, ...]
    comparisons: tuple[Comparison, ...]
    costs: dict[str, Cost]

    def to_dict(self) -> dict[str, Any]:
        """All of it as plain values, for JSON."""
        return {
            "split": self.split,
            "models": {judgement.name: judgement.to_dict() for judgement in self.judgements},
            "comparisons": [comparison.to_dict() for comparison in self.comparisons],
            "costs": {name: cost.to_dict() for name, cost in self.costs.items()},
        }


def evaluate_models(
    models: Sequence[str],
    data: str,
    *,
    weights: Path | None = None,
    split: str = "test",
    label_column: str | None = None,
    held_out_of_test: float | None = None,
    hierarchy: Path | None = None,
    teachers: bool = False,
) -> Evaluation:
    """Figures of models on one split, in float32, own and at the temperature stored with a student.

    What a run has held out of test (`data.held_out_of_test`) is left out for its student, and for any model
    where ``held_out_of_test`` says how much.

    Args:
        models: folders of students or runs; or one name of a network, with ``weights``.
        hierarchy: a file of superclasses; CIFAR-100's are known.
        teachers: also the teachers of the first run, and their fusion.

    Raises:
        RichKDError: no such split, model or weights, or classes that are not the data's.
    """
    if weights is not None and len(models) > 1:
        raise ConfigError(
            "--weights belongs to one model",
            got=", ".join(models),
            fix="evaluate networks with a checkpoint one at a time.",
        )
    settings, seed = _as_trained(Path(models[0]), data)
    changes = {"label_column": label_column, "held_out_of_test": held_out_of_test}
    settings = settings.model_copy(
        update={name: value for name, value in changes.items() if value is not None}
    )
    opened = open_splits(settings, seed)
    if split not in opened.splits:
        raise DataError(f"{data} has no split '{split}'", fix=nearest(split, opened.splits))
    chosen = opened.splits[split]
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    answers = [_network_answers(*_open(model, weights, opened, data), chosen, device) for model in models]
    if teachers:
        answers += _teachers_of(Path(models[0]), split, device)
    tree = _hierarchy(hierarchy, opened)
    return judged_together(split, answers, chosen.labels_N, opened.class_names, tree)


def judged_together(
    split: str,
    answers: Sequence[Answers],
    labels_N: Tensor,
    class_names: Sequence[str],
    hierarchy: Hierarchy | None,
) -> Evaluation:
    """Judge each model, and compare each with the first."""
    judgements = tuple(
        judge(a.name, a.logits_NC, labels_N, class_names, temperature=a.temperature, hierarchy=hierarchy)
        for a in answers
    )
    first, *others = ((a.name, a.logits_NC, a.temperature) for a in answers)
    return Evaluation(
        split,
        judgements,
        tuple(compare(first, other, labels_N) for other in others),
        {a.name: a.cost for a in answers if a.cost is not None},
    )


def _open(model: str, weights: Path | None, data: Data, where: str) -> tuple[str, Network, float]:
    if weights is not None:
        config = ModelConfig(name=model, weights=weights)
        return model, build_network(config, len(data.class_names), role="student"), 1.0
    student = load_student(model)
    check_same_classes(data.class_names, student.class_names, where=f"student {model}", reference=where)
    return model, student.network, student.temperature


def _network_answers(
    name: str, network: Network, temperature: float, split: Split, device: torch.device
) -> Answers:
    network = network.to(device).to(memory_format=torch.channels_last)
    logits_NC = logits_of(network, open_store(split, network.size), device)
    return Answers(name, logits_NC, temperature, cost_of(network, device))


def _teachers_of(run: Path, split: str, device: torch.device) -> Iterator[Answers]:
    """A run's teachers, each at its own scale, and their fusion, on one of the run's splits."""
    if not (run / "config.yaml").is_file():
        raise DataError(
            f"--teachers needs the folder of a run, whose settings name its teachers: {run} is none",
            got="no config.yaml",
            fix="give a run folder as the first model.",
        )
    config = load_config(run / "config.yaml")
    data = config.data.model_copy(update={"unlabeled": None})
    parts = assemble(config.model_copy(update={"data": data}), device)
    if parts.fusion is None:
        raise ConfigError(
            f"The run {run} has no teachers", got=f"method {config.method.name}", fix="leave --teachers out."
        )
    logits = [outputs_of(teacher, parts.stores[split], device).logits_BC for teacher in parts.teachers]
    for teacher, logits_NC in zip(parts.teachers, logits, strict=True):
        yield Answers(teacher.name, logits_NC * teacher.logit_scale, 1.0)
    if len(logits) > 1:
        yield Answers("fused", parts.fusion.logits(logits).float(), 1.0)


def _hierarchy(path: Path | None, data: Data) -> Hierarchy | None:
    return known_hierarchy(data.class_names) if path is None else read_hierarchy(path, data.class_names)


def _as_trained(model: Path, data: str) -> tuple[DataConfig, int]:
    """How the run that made a student split these data: it is not to be tested on what it learnt from."""
    for folder in (model, model.parent):
        if (folder / "config.yaml").is_file():
            config = load_config(folder / "config.yaml")
            if Path(config.data.path).resolve() == Path(data).resolve():
                return config.data.model_copy(update={"unlabeled": None}), config.train.seed
    return DataConfig(path=data), 0
