"""The end of a run: fit the student's temperature, evaluate student and teachers, save the results."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from richkd.data.held_out import held_out_split
from richkd.data.sources import LEFT_OUT
from richkd.export.student import save_student
from richkd.methods.objective import TermSpec, method_label
from richkd.metrics.accuracy import agreement, measure
from richkd.metrics.calibration import fit_temperature
from richkd.models.build import Network
from richkd.pipeline.assemble import Parts
from richkd.pipeline.figures import describe_target, target_logits
from richkd.teachers.predict import logits_of, outputs_of
from richkd.training.card import write_card
from richkd.training.run_folder import RunFolder

REPORTED_SPLITS = ("val", "test", LEFT_OUT)


def finish(
    parts: Parts,
    student: Network,
    folder: RunFolder,
    facts: dict[str, Any],
    splits: Sequence[str] = REPORTED_SPLITS,
    *,
    write: bool,
) -> dict[str, Any]:
    """Evaluate the last epoch's student and its teachers, write ``student/`` and ``summary.json``.

    Args:
        facts: further figures of the run for the summary.
        splits: names of the splits that are evaluated, as far as the data have them.
        write: whether this process writes; all return the summary.
    """
    fitted_on = held_out_split(parts.stores.names)
    logits = {
        name: logits_of(student, parts.stores.clean(name), parts.device)
        for name in parts.stores.names
        if name in splits or name == fitted_on
    }
    temperature = None
    if fitted_on:
        temperature = fit_temperature(logits[fitted_on], parts.data.splits[fitted_on].labels_N)
    evaluated = {name: logits[name] for name in REPORTED_SPLITS if name in logits and name in splits}
    figures, teachers = _figures(parts, evaluated, temperature)
    summary: dict[str, Any] = {
        "method": method_label(parts.config),
        "objective": {spec.label: _described(spec) for spec in parts.specs},
        "seed": parts.config.train.seed,
        "epochs": parts.config.train.epochs,
        "parameters": student.parameters_count,
        "temperature": 1.0 if temperature is None else temperature,
        "temperature_fitted_on": fitted_on,
        "test_calibration_fraction": parts.config.data.test_calibration_fraction,
        "splits": figures,
        "teachers": teachers,
        **describe_target(parts),
        "student_folder": str(folder.student),
        # Outputs that were read from a cache or a file went through no network.
        "images_through_teachers": {teacher.name: teacher.computed for teacher in parts.teachers},
        **facts,
    }
    if write:
        _write(parts, student, folder, summary)
    return summary


def _figures(
    parts: Parts, logits: dict[str, Tensor], temperature: float | None
) -> tuple[dict[str, dict[str, Any]], dict[str, dict[str, Any]]]:
    """Metrics of the student on each split, and metrics of each teacher on one of them."""
    figures = {
        name: _measured(logits_NC, parts.data.splits[name].labels_N, temperature)
        for name, logits_NC in logits.items()
    }
    candidates = [name for name in logits if name != LEFT_OUT]
    if parts.fusion is None or not candidates:
        return figures, {}
    # A teacher's pass over a split costs more than the student's, so one split has to do.
    split = candidates[-1]
    teachers, targets = _teachers(parts, split)
    for target, target_NC in targets.items():
        figures[split][f"agreement_with_{target}"] = agreement(logits[split], target_NC)
    return figures, {split: teachers}


def _write(parts: Parts, student: Network, folder: RunFolder, summary: dict[str, Any]) -> None:
    origin = {name: summary[name] for name in ("method", "temperature_fitted_on")}
    if LEFT_OUT in parts.data.splits:
        origin["left_out"] = parts.data.splits[LEFT_OUT].keys()
    save_student(folder.student, student, parts.data.class_names, summary["temperature"], origin)
    write_card(folder.student, parts, student, summary)
    folder.write_json("summary.json", summary)


def _measured(logits_NC: Tensor, labels_N: Tensor, temperature: float | None) -> dict[str, Any]:
    """Metrics at the network's own scale and, if a temperature was fitted, at that."""
    figures: dict[str, Any] = measure(logits_NC, labels_N).to_dict()
    if temperature is not None:
        figures["calibrated"] = measure(logits_NC, labels_N, temperature).to_dict()
    return figures


def _described(spec: TermSpec) -> dict[str, Any]:
    return {"term": spec.name, **spec.config.model_dump(mode="json")}


def _teachers(parts: Parts, split: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Metrics of each teacher at its own scale and of the main target, and the logits of the target."""
    labels_N = parts.data.splits[split].labels_N
    logits = {
        teacher.name: outputs_of(teacher, parts.stores.clean(split, teacher.framing), parts.device).logits_BC
        for teacher in parts.teachers
    }
    scaled = {teacher.name: logits[teacher.name] * teacher.logit_scale for teacher in parts.teachers}
    targets = target_logits(parts, logits)
    return {name: measure(z_NC, labels_N).to_dict() for name, z_NC in (scaled | targets).items()}, targets
