"""Evaluate any model on any data: a saved student, or a network by name with a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from richkd.assemble import open_splits
from richkd.config import DataConfig, ModelConfig
from richkd.data.batches import open_store
from richkd.errors import DataError, check_same_classes, nearest
from richkd.evaluate.metrics import measure
from richkd.evaluate.predict import logits_of
from richkd.export import load_student
from richkd.models.build import build_network
from richkd.settings import load_config


def evaluate_model(
    model: str,
    data: str,
    *,
    weights: Path | None = None,
    split: str = "test",
    label_column: str | None = None,
    held_out_of_test: float | None = None,
) -> dict[str, Any]:
    """Figures of a model on one split, in float32; a student's also after its stored temperature.

    What a run has held out of test (`data.held_out_of_test`) is left out for its student, and for any model
    where ``held_out_of_test`` says how much.

    Raises:
        RichKDError: no such split, model or weights, or classes that are not the data's.
    """
    settings, seed = _as_trained(Path(model), data)
    changes = {"label_column": label_column, "held_out_of_test": held_out_of_test}
    settings = settings.model_copy(
        update={name: value for name, value in changes.items() if value is not None}
    )
    opened = open_splits(settings, seed)
    if split not in opened.splits:
        raise DataError(f"{data} has no split '{split}'", fix=nearest(split, opened.splits))
    chosen = opened.splits[split]
    temperature = 1.0
    if weights is None:
        student = load_student(model)
        check_same_classes(opened.class_names, student.class_names, where=f"student {model}", reference=data)
        network, temperature = student.network, student.temperature
    else:
        network = build_network(
            ModelConfig(name=model, weights=weights), len(opened.class_names), role="student"
        )
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    network = network.to(device).to(memory_format=torch.channels_last)
    logits_NC = logits_of(network, open_store(chosen, network.size), device)
    results = {"as trained": measure(logits_NC, chosen.labels_N).to_dict()}
    if temperature != 1.0:
        results[f"at T = {temperature:.3f}"] = measure(logits_NC, chosen.labels_N, temperature).to_dict()
    return results


def _as_trained(model: Path, data: str) -> tuple[DataConfig, int]:
    """How the run that made a student split these data: it is not to be tested on what it learnt from."""
    for folder in (model, model.parent):
        if (folder / "config.yaml").is_file():
            config = load_config(folder / "config.yaml")
            if Path(config.data.path).resolve() == Path(data).resolve():
                return config.data.model_copy(update={"unlabeled": None}), config.train.seed
    return DataConfig(path=data), 0
