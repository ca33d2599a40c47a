"""The card of a student: architecture, accuracy, use, and limits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import timm
from huggingface_hub import EvalResult, ModelCard, ModelCardData

from richkd.config.model_name import parse_model_name
from richkd.core.checksums import forget_hashes, record_hashes
from richkd.core.files import write_atomically
from richkd.core.pages import environment
from richkd.core.presence import folder_name
from richkd.core.types import UNLABELED
from richkd.core.versions import package_version
from richkd.core.visible import visible
from richkd.models.build import Network
from richkd.models.saved import CARD
from richkd.pipeline.assemble import Parts
from richkd.pipeline.figures import TARGET, TARGET_LABELED


def write_card(folder: Path, parts: Parts, student: Network, summary: dict[str, Any]) -> None:
    """Write ``README.md`` beside the weights, in the form of the Hugging Face hub, from a run's summary.

    Raises:
        CheckpointError: the folder cannot be written.
    """
    template = environment("richkd.training").get_template("card.md")
    text = template.render(**_values(parts, student, summary))
    card = ModelCard(f"---\n{_metadata(parts, student, summary).to_yaml()}\n---\n\n{text.strip()}\n")
    forget_hashes(folder, [CARD])
    write_atomically(folder / CARD, card.content.encode())
    record_hashes(folder, [CARD])


def _values(parts: Parts, student: Network, summary: dict[str, Any]) -> dict[str, Any]:
    """The values of the template by name."""
    labels_N = parts.data.splits["train"].labels_N
    fusion = summary["fusion"]
    return {
        "architecture": student.name,
        "loaded_by": _loader(student),
        "data": folder_name(parts.data.path),
        "classes": parts.data.class_names,
        "parameters": summary["parameters"],
        "size": student.size,
        "mean": tuple(student.mean),
        "std": tuple(student.std),
        "lesson": _lesson(parts),
        "splits": summary["splits"],
        "teachers": {
            split: {_short(name): figures for name, figures in result.items() if isinstance(figures, dict)}
            for split, result in summary["teachers"].items()
        },
        "seed": summary["seed"],
        "temperature": summary["temperature"],
        "fitted_on": summary["temperature_fitted_on"],
        "version": package_version(),
        "method": summary["method"],
        "epochs": summary.get("planned_epochs", summary["epochs"]),
        "images": len(labels_N),
        "unlabeled": int((labels_N == UNLABELED).sum()),
        "inputs": [
            (setting, Path(path).name, digest)
            for setting, files in summary["inputs"].items()
            for path, digest in files.items()
        ],
        "fusion": fusion["origin"] if fusion and len(parts.teachers) > 1 else None,
        "fusion_labeled": summary["fusion_labeled"]["origin"] if "fusion_labeled" in summary else None,
    }


def _loader(student: Network) -> str:
    """Who builds the network again: ``timm``, ``timm after import`` of this package, or ``richkd`` alone."""
    name = student.blueprint.architecture
    if parse_model_name(name).kind == "callable":
        return "richkd"
    ours = timm.is_model(name) and timm.models.model_entrypoint(name).__module__.startswith("richkd.")
    return "timm after import" if ours else "timm"


def _metadata(parts: Parts, student: Network, summary: dict[str, Any]) -> ModelCardData:
    """The head of the card, which the hub reads."""
    data = visible(folder_name(parts.data.path))
    task = "image-classification"
    results = [
        EvalResult(
            task_type=task,
            dataset_type=data,
            dataset_name=f"{data}, {split}",
            dataset_split=split,
            metric_type="accuracy",
            metric_value=round(figures["top1"], 4),
        )
        for split, figures in summary["splits"].items()
    ]
    return ModelCardData(
        library_name="timm",
        pipeline_tag=task,
        tags=[task, "timm", "knowledge-distillation", "richkd"],
        model_name=visible(student.name),
        eval_results=results,
    )


def _lesson(parts: Parts) -> str:
    names = [_short(teacher.name) for teacher in parts.teachers]
    if not names:
        return "trained from labels alone"
    if len(names) == 1:
        return f"distilled from {names[0]}"
    return f"distilled from {', '.join(names[:-1])} fused with {names[-1]}"


def _short(name: str) -> str:
    """A teacher's name without the path of its folder, which is private; "fused teacher" for the target."""
    if name == TARGET:
        return "fused teacher"
    if name == TARGET_LABELED:
        return "fused teacher, for images with labels"
    local = parse_model_name(name).kind == "local-dir"
    return "/".join(Path(name).parts[-2:]) if local else name
