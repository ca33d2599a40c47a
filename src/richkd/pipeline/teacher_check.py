"""Look at the teachers before training: their accuracy on held-out images, and what resolution they see."""

from __future__ import annotations

import torch
from torch import Tensor

from richkd.core.logs import Log
from richkd.core.types import UNLABELED, Output
from richkd.data.batches import CleanStore
from richkd.data.held_out import held_out_split
from richkd.data.split import evenly_spaced
from richkd.metrics.accuracy import measure, near_chance
from richkd.pipeline.assemble import Parts
from richkd.teachers.base import Teacher
from richkd.teachers.predict import outputs_of

SAMPLE = 256
TEACHER_NEAR_CHANCE = "the teacher's classes are probably in another order"
CLIP_NEAR_CHANCE = (
    "check the class names and prompts (--clip.rename_classes, --clip.prompts), or train without CLIP"
)


def report_teachers(parts: Parts, log: Log) -> None:
    """Log each teacher's accuracy on at most `SAMPLE` held-out images, and warn if it is near chance.

    Without held-out images nothing is logged, because a teacher that memorized the training images looks
    perfect on them. A control has the teachers of a run that was checked.
    """
    name = held_out_split(parts.stores.names)
    if name is None or parts.config.fusion.control is not None:
        return
    labels_N = parts.data.splits[name].labels_N
    labeled_N = (labels_N != UNLABELED).nonzero()[:, 0]
    index_N = labeled_N[evenly_spaced(len(labeled_N), SAMPLE)]
    for teacher in parts.teachers:
        output = _outputs_of(teacher, parts.stores.clean(name, teacher.framing), index_N, parts.device)
        log_accuracy(teacher, output, labels_N[index_N], f"images of {name}", log)


def log_accuracy(teacher: Teacher, output: Output, labels_N: Tensor, images: str, log: Log) -> None:
    """Log a teacher's accuracy on the images that have labels, and warn if it is near chance."""
    labeled_N = labels_N != UNLABELED
    if not labeled_N.any():
        return
    labels_N, logits_NC = labels_N[labeled_N], output.logits_BC.cpu()[labeled_N] * teacher.logit_scale
    classes, top1 = logits_NC.shape[1], measure(logits_NC, labels_N).top1
    log(f"{teacher.role} {teacher.name}: accuracy {top1:.1%} on {len(labels_N)} {images}")
    # A trained teacher is above chance on its own classes; one with another class order is near chance.
    # CLIP knows the classes by their names, which have no order.
    if near_chance(top1, classes, len(labels_N)):
        advice = CLIP_NEAR_CHANCE if teacher.role == "CLIP" else TEACHER_NEAR_CHANCE
        log(f"warning: this is near chance ({1 / classes:.1%}); {advice}")


def report_sizes(parts: Parts, log: Log) -> None:
    """Log the resolution of training images and of every network, and warn if `data.size` is too small."""
    framings = {f"{t.role} {t.name}": t.framing for t in parts.teachers if t.framing is not None}
    limit = parts.config.data.in_memory_gb
    sizes = [parts.student.size, *(framing.size for framing in framings.values())]
    source = parts.stores.training.size if parts.stores.training is not None else parts.student.size
    if parts.stores.training is not None and not parts.stores.decoded("train"):
        log(f"training images are decoded in every epoch: more than data.in_memory_gb {limit:g}")
    if len({source, *sizes}) == 1:
        return
    networks = [
        f"student {parts.student.framing}",
        *(f"{name} {framing}" for name, framing in framings.items()),
    ]
    log(f"resolution: {', '.join(networks)}; training images {source} px")
    if parts.config.data.size is not None and max(sizes) > source:
        log(
            f"warning: data.size {source} is less than the input of a network ({max(sizes)} px), which then "
            "sees enlarged training images; remove the setting, or make it larger"
        )


def _outputs_of(teacher: Teacher, store: CleanStore, index_N: Tensor, device: torch.device) -> Output:
    """Outputs for clean images.

    A teacher with a cache computes the whole split, which the run needs later: cached outputs must come from
    the batches in which a run computes them, because these determine the last bits.
    """
    if teacher.caches:
        return outputs_of(teacher, store, device).at(index_N)
    return outputs_of(teacher, store, device, index_N)
