"""``richkd check``: try everything a run needs without keeping it, and print the plan."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from rich.table import Table
from torch import Tensor

from richkd.config.schema import Config
from richkd.core.device import pick_device
from richkd.core.errors import ConfigError, ImageError, Problems
from richkd.core.finite import refuse_non_finite_rows
from richkd.core.logs import Log
from richkd.core.terminal import Terminal
from richkd.core.visible import counted
from richkd.data.duplicates import duplicates, summary
from richkd.data.framing import Framing
from richkd.data.images import decode_all
from richkd.data.sources import open_data
from richkd.data.split import Split
from richkd.methods.objective import LABELS, TermSpec, method_label, read_objective
from richkd.methods.term import Context
from richkd.metrics.cost import flops
from richkd.models.build import Network
from richkd.pipeline.assemble import Parts, assemble
from richkd.pipeline.roles import ADD_TEACHER
from richkd.pipeline.teacher_check import log_accuracy, report_sizes
from richkd.training.batch_parts import refuse_small_parts
from richkd.training.failures import NonFiniteDetector
from richkd.training.forecast import Forecast, measure_forecast, si
from richkd.training.optimizer import build_optimizer
from richkd.training.task import Task
from richkd.training.trackers import refuse_missing_trackers

SAMPLE = 256


def check_run(config: Config, console: Terminal) -> dict[str, Any]:
    """Check everything that a run needs, and print the results and the plan of the run.

    Opens the data, decodes every image, searches for images that are in two splits, measures the accuracy of
    the teachers on training images, computes the loss terms of one step, and measures up to 20 steps. Nothing
    of it is kept, and nothing is written to the run folder.

    Returns:
        What was found: images, pictures that splits share, the loss terms of one step, the time, memory and
        disk that the run needs, and the plan.

    Raises:
        RichKDError: the first error that would stop the run. Images that cannot be read are reported for all
            splits together.
    """
    _ask_for_teachers(config)
    refuse_missing_trackers(config.train.trackers)
    device = pick_device(config.train.device)
    log = partial(console.print, soft_wrap=True)
    try:
        parts = assemble(config, device, log, speeds={})
    except ImageError:
        # Only the images that were needed first were read.
        _decode(open_data(config.data, config.train.seed).splits, config)
        raise
    report_sizes(parts, log)
    _decode({n: s for n, s in parts.data.splits.items() if not parts.stores.decoded(n)}, config)
    for name, split in parts.data.splits.items():
        console.print(f"decoded every image of {name}: {len(split):,}")
    if parts.stores.training is None:
        raise ConfigError(
            "There is no training split", got=", ".join(parts.stores.names), fix="check --data."
        )
    refuse_small_parts(parts)
    shared = _report_duplicates(parts, console)
    _report_teachers(parts, log)
    terms = _dry_step(parts)
    console.print("dry step: " + ", ".join(f"{name} {float(value):.4f}" for name, value in terms.items()))
    needs = measure_forecast(parts)
    plan = _plan(parts, needs)
    _print_plan(plan, console)
    if warning := needs.warning():
        log(warning)
    return {
        "classes": list(parts.data.class_names),
        "images": {name: len(split) for name, split in parts.data.splits.items()},
        "shared_with_train": shared,
        "dry_step": {name: float(value) for name, value in terms.items()},
        "steps": parts.order().steps * config.train.epochs,
        "forecast": needs.to_dict(),
        "plan": [{"name": name, "value": value} for name, value in plan],
    }


def _ask_for_teachers(config: Config) -> None:
    """Say what can be checked without any teacher."""
    if config.teachers or config.clip is not None or not _reads_teachers(config):
        return
    raise ConfigError(
        f"The objective {method_label(config)} needs teachers, and a check opens them",
        got="neither --teacher nor --clip",
        fix=f"{ADD_TEACHER}, and --clip if it is fused; or check data and student alone: --method ce.",
    )


def _reads_teachers(config: Config) -> bool:
    return any(spec.target != LABELS for spec in read_objective(config))


def _decode(splits: Mapping[str, Split], config: Config) -> None:
    """Decode all images of some splits.

    Raises:
        ImageError: images of one or several splits cannot be read; the message names those of all splits.
    """
    problems = Problems(ImageError)
    for split in splits.values():
        problems.attempt(decode_all, split, Framing(8), workers=config.train.workers)
    problems.refuse_all()


def _report_duplicates(parts: Parts, console: Terminal) -> dict[str, list[list[str]]]:
    """Print which images of held-out splits are in train, too; returns their keys, by split."""
    splits, shared = parts.data.splits, dict[str, list[list[str]]]()
    for held_out in ("val", "test", "calibration"):
        if held_out not in splits or "train" not in splits:
            continue
        copies = duplicates(splits["train"], splits[held_out])
        shared[held_out] = [list(one.second) for one in copies]
        if copies:
            count = sum(len(one.second) for one in copies)
            console.print(
                f"warning: {count:,} images are in both train and {held_out}: {summary(copies)}",
                soft_wrap=True,
            )
        else:
            console.print(f"no image is in both train and {held_out}")
    return shared


def _report_teachers(parts: Parts, log: Log) -> None:
    for teacher in parts.teachers:
        sample = teacher.sample(parts.stores.clean("train", teacher.framing), parts.device, SAMPLE)
        split, index_N = parts.data.splits["train"], sample.index_N
        refuse_non_finite_rows(
            sample.output.logits_BC,
            f"{teacher.role} {teacher.name}",
            partial(_key_of, split, index_N),
            "check its weights: they are finite, but its outputs are not.",
        )
        labels_N = split.labels_N[index_N]
        log_accuracy(teacher, sample.output, labels_N, sample.what, log)


def _key_of(split: Split, index_N: Tensor, row: int) -> str:
    return split.key(int(index_N[row]))


def _dry_step(parts: Parts) -> dict[str, Tensor]:
    task = Task(parts).to(parts.device)
    build_optimizer(task, parts.config.optim)
    # The images of the run's first step are used, because imported outputs may lack the views of others.
    first = parts.order().epoch(0)[0][:8]
    (batch,) = (batch.to(parts.device) for batch in parts.training_batches(0, [first]))
    with torch.no_grad():
        targets = parts.teach(batch, 0)
        terms = task(parts.student_pixels(batch, 0), targets, batch, Context())
    detector = NonFiniteDetector(parts.data.splits["train"], parts.order().steps)
    detector.record(terms, batch.index_B, 0, parts.taught(targets))
    detector.check()
    return dict(terms.terms)


def _plan(parts: Parts, needs: Forecast) -> list[tuple[str, str]]:
    """The lines of the plan: what the run would do, and what it needs."""
    epochs, order = parts.config.train.epochs, parts.order()
    rows: list[tuple[str, str]] = [
        ("classes", f"{len(parts.data.class_names):,}"),
        ("images", ", ".join(f"{len(split):,} {name}" for name, split in parts.data.splits.items())),
        ("training images", _source(parts)),
        ("student", _describe(parts.student)),
    ]
    rows += [
        (teacher.role, _describe(teacher.network) if teacher.network else teacher.describe())
        for teacher in parts.teachers
    ]
    rows.append(("objective", ", ".join(map(_term, parts.specs))))
    rows += [
        ("steps", f"{order.steps:,} an epoch × {counted(epochs, 'epoch')} = {order.steps * epochs:,}"),
        ("precision", parts.speed.describe()),
    ]
    return rows + needs.rows()


def _print_plan(plan: list[tuple[str, str]], console: Terminal) -> None:
    table = Table(title="plan", title_justify="left", box=None, pad_edge=False, show_header=False)
    for row in plan:
        table.add_row(*row)
    console.print(table)


def _source(parts: Parts) -> str:
    training = parts.stores.training
    assert training is not None
    where = "decoded in memory" if parts.stores.decoded("train") else "decoded in every epoch"
    return f"{training.size} px, {where}"


def _term(spec: TermSpec) -> str:
    return f"{spec.config.weight:g} × {spec.label} ({spec.target})"


def _describe(network: Network) -> str:
    return f"{network.name}: {network.parameters_count:,} parameters, {si(flops(network))}FLOPs an image"
