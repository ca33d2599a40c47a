"""``richkd check``: try everything a run needs without training, and print the plan."""

from __future__ import annotations

from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from richkd.config.schema import Config
from richkd.core.errors import ConfigError
from richkd.core.types import UNLABELED, Output
from richkd.data.batches import Resident
from richkd.data.images import decode_all, duplicates
from richkd.data.views import Clean, render
from richkd.metrics.accuracy import measure
from richkd.metrics.cost import flops
from richkd.models.build import Network
from richkd.pipeline.assemble import Parts, assemble
from richkd.teachers.cache.cached import uncached
from richkd.teachers.precomputed.vision import ImportedTeacher
from richkd.teachers.predict import batch_on
from richkd.teachers.vision import Teacher, VisionTeacher
from richkd.training.trainer import Task

SAMPLE = 256
# A trained teacher is far above chance on its own classes; one in another class order is at chance.
CHANCE_FACTOR = 3


def check_run(config: Config, console: Console) -> None:
    """Open, decode, compare and try; print what was found and what a run would cost.

    Raises:
        RichKDError: the first thing that would stop a run.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    parts = assemble(config, device, lambda line: console.print(line, markup=False, soft_wrap=True))
    for name, store in parts.stores.items():
        if not isinstance(store, Resident):  # resident stores have decoded every image already
            decode_all(store.split, size=8, workers=config.train.workers)
        console.print(f"decoded every image of {name}: {len(store.split):,}")
    if "train" not in parts.stores:
        raise ConfigError("There is no training split", got=", ".join(parts.stores), fix="check --data.")
    _report_duplicates(parts, console)
    _report_teachers(parts, console)
    terms = _dry_step(parts)
    console.print("dry step: " + ", ".join(f"{name} {float(value):.4f}" for name, value in terms.items()))
    _print_plan(parts, console)


def _report_duplicates(parts: Parts, console: Console) -> None:
    splits = parts.data.splits
    for held_out in ("val", "test", "calibration"):
        if held_out not in splits or "train" not in splits:
            continue
        pairs = duplicates(splits["train"], splits[held_out])
        if pairs:
            shown = ", ".join(f"{a} = {b}" for a, b in pairs[:3])
            console.print(
                f"warning: {len(pairs)} images are in both train and {held_out}: {shown}", markup=False
            )
        else:
            console.print(f"no image is in both train and {held_out}")


def _report_teachers(parts: Parts, console: Console) -> None:
    chance = 1 / len(parts.data.class_names)
    for teacher in parts.teachers:
        index_N, output = _sample(parts, teacher)
        labels_N = parts.stores["train"].split.labels_N[index_N]
        top1 = measure(output.logits_BC.cpu() * teacher.logit_scale, labels_N).top1
        what = "imported views" if isinstance(teacher, ImportedTeacher) else "training images"
        console.print(f"teacher {teacher.name}: {top1:.1%} right on {len(index_N)} {what}", markup=False)
        if top1 < CHANCE_FACTOR * chance:
            console.print(
                f"warning: that is near chance ({chance:.1%}); its classes are probably in another order",
                markup=False,
            )


def _sample(parts: Parts, teacher: Teacher) -> tuple[Tensor, Output]:
    """Some training images, and what a teacher says of them: whole, or of the views that were imported."""
    if isinstance(teacher, ImportedTeacher):
        return teacher.sample("train", SAMPLE)
    store = parts.stores["train"]
    labeled_N = (store.split.labels_N != UNLABELED).nonzero()[:, 0]
    index_N = labeled_N[torch.linspace(0, len(labeled_N) - 1, min(SAMPLE, len(labeled_N))).long()]
    (batch,) = (batch_on(batch, parts.device) for batch in store.batches([index_N]))
    return index_N, teacher.outputs(batch, Clean(store.size).draw(0, 0, batch.index_B))


def _dry_step(parts: Parts) -> dict[str, Tensor]:
    task = Task(parts).to(parts.device)
    store = parts.stores["train"]
    # Images of the run's own first step: imported outputs need not hold the views of any others.
    first = parts.order().epoch(0)[0][:8]
    (batch,) = (batch_on(batch, parts.device) for batch in store.batches([first]))
    views = parts.augmentation.draw(parts.config.train.seed, 0, batch.index_B)
    outputs = [teacher.outputs(batch, views) for teacher in parts.teachers]
    target = parts.fusion(outputs, batch.labels_B) if parts.fusion else None
    student = parts.student
    pixels = render(batch.pixels_BHWC, views, student.size, student.mean, student.std)
    with torch.no_grad():
        return dict(task(pixels, target, batch, 0).terms)


def _print_plan(parts: Parts, console: Console) -> None:
    epochs, order = parts.config.train.epochs, parts.order()
    rows: list[tuple[str, Any]] = [
        ("classes", f"{len(parts.data.class_names):,}"),
        ("images", ", ".join(f"{len(split):,} {name}" for name, split in parts.data.splits.items())),
        ("source size", f"{parts.stores['train'].size} px"),
        ("student", _describe(parts.student)),
    ]
    for teacher in map(uncached, parts.teachers):
        if isinstance(teacher, VisionTeacher):
            rows.append(("teacher", _describe(teacher.network)))
        elif isinstance(teacher, ImportedTeacher):
            rows.append(("teacher", str(teacher)))
        else:
            rows.append(("CLIP", f"{teacher.name}, width {teacher.feature_width}"))
    rows += [
        ("memory", f"{_si(_bytes(parts))}B for images, weights, optimizer and caches, without activations"),
        ("steps", f"{order.steps:,} an epoch × {epochs:,} epochs = {order.steps * epochs:,}"),
        ("precision", "bfloat16 autocast" if parts.autocast else "float32"),
    ]
    table = Table(title="plan", title_justify="left", box=None, pad_edge=False, show_header=False)
    for name, value in rows:
        table.add_row(name, str(value))
    console.print(table)


def _describe(network: Network) -> str:
    return f"{network.name}: {network.parameters_count:,} parameters, {_si(flops(network))}FLOPs an image"


def _bytes(parts: Parts) -> int:
    images = sum(store.pixels_NHWC.numel() for store in parts.stores.values() if isinstance(store, Resident))
    state = sum(t.numel() * t.element_size() for t in Task(parts).state_dict().values())
    copies = 3 if parts.config.optim.name == "sgd" else 4  # weights, gradient, and one or two moments
    networks = [t.network for t in map(uncached, parts.teachers) if isinstance(t, VisionTeacher)]
    teachers = sum(4 * network.parameters_count for network in networks)
    return int(images + copies * state + teachers)


def _si(value: float) -> str:
    for prefix in ("", "k", "M", "G", "T"):
        if value < 1000:
            return f"{value:.3g} {prefix}"
        value /= 1000
    return f"{value:.3g} P"
