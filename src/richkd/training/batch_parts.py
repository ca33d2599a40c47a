"""Refuse batches and parts of batches that are too small for a network or for a loss term."""

from __future__ import annotations

import torch
from torch import nn

from richkd.core.errors import ConfigError
from richkd.models.build import Network
from richkd.models.probe import first_line, pixels_for, unchanged
from richkd.pipeline.assemble import Parts

WORDS = {2: "two", 3: "three"}


def part_sizes(images: int, parts: int) -> list[int]:
    """Images of each part of a batch, as `Batch.chunks` cuts it. The last part may be much smaller.

    Example:
        >>> part_sizes(9, 4), part_sizes(10, 4), part_sizes(2, 4)
        ([3, 3, 3], [3, 3, 3, 1], [1, 1])
    """
    return [len(part) for part in torch.arange(images).chunk(parts)]


def refuse_small_parts(parts: Parts, world: int = 1) -> None:
    """Check that every step can be computed, on every process and in every part of gradient accumulation.

    A batch normalization whose input has one value per channel, as that of one image does at the end of many
    networks, cannot be computed. All steps have the same number of images (`TrainingOrder`).

    Args:
        parts: the parts of the run.
        world: number of processes, among which a batch is divided.

    Raises:
        ConfigError: a process without an image, processes with different numbers of parts, or a part with
            fewer images than the student or a term needs.
    """
    settings = parts.config.train
    batch, asked = parts.order().images_of_step, settings.grad_accum_steps
    most, least = -(-batch // world), batch // world
    if not least:
        raise ConfigError(
            "Every process must have an image of each batch",
            got=f"{batch} images in a batch for {world} processes",
            fix=f"set train.batch_size to {2 * world} or more, or start fewer processes.",
        )
    sizes = {count: part_sizes(count, asked) for count in (most, least)}
    if len(sizes[most]) != len(sizes[least]):
        raise ConfigError(
            "All processes must compute the same number of parts of a batch (train.grad_accum_steps)",
            got=f"{batch} images for {world} processes; {most} images make {len(sizes[most])} parts, "
            f"and {least} images make {len(sizes[least])}",
            fix=f"set train.batch_size to a multiple of {world}.",
        )
    smallest = min(size for cut in sizes.values() for size in cut)
    needed = _images_needed(parts, smallest)
    if needed is not None:
        count, because, reason = needed
        raise ConfigError(
            f"Each part of a batch must have {WORDS.get(count, count)} images or more, because {because}",
            got=f"a batch of {_batch(parts, world)}, train.grad_accum_steps {asked}: "
            f"parts of {_listed(sizes[least])} images{reason}",
            fix=_fix(parts, least, world, count),
        )


def _images_needed(parts: Parts, smallest: int) -> tuple[int, str, str] | None:
    """How many images a part must have, by whom and why; None if the smallest part has enough for all."""
    terms = [spec for spec in parts.specs if spec.term.least_images > smallest]
    if terms:
        most = max(terms, key=lambda spec: spec.term.least_images)
        return most.term.least_images, f"term objective.{most.label} computes over several images", ""
    reason = _why_not_one(parts.student) if smallest == 1 else None
    return None if reason is None else (2, f"{parts.student.name} has batch normalization", f" ({reason})")


def _why_not_one(student: Network) -> str | None:
    """The message of the student's error in training with one image; None if it can be computed."""
    batch_norms = (nn.modules.batchnorm._BatchNorm, nn.modules.instancenorm._InstanceNorm)
    if not any(isinstance(module, batch_norms) for module in student.modules()):
        return None
    try:
        with unchanged(student, training=True), torch.no_grad():
            student(pixels_for(student, student.size, batch=1))
    except ValueError as error:  # what PyTorch raises for one value per channel
        return first_line(error)
    return None


def _batch(parts: Parts, world: int) -> str:
    """The images of a batch in words."""
    order = parts.order()
    text = f"{order.images_of_step} images"
    if order.images_of_step < parts.config.train.batch_size:
        text += f" (train.batch_size {parts.config.train.batch_size}, but {order.images} training images)"
    return text if world == 1 else f"{text} for {world} processes"


def _listed(sizes: list[int]) -> str:
    shown = [str(size) for size in sizes]
    return ", ".join(shown) if len(shown) <= 4 else f"{shown[0]}, {shown[1]}, … and {shown[-1]}"


def _fix(parts: Parts, images: int, world: int, count: int) -> str:
    """The largest number of parts that all have ``count`` images or more, or a larger batch."""
    asked = parts.config.train.grad_accum_steps
    fitting = [number for number in range(2, asked) if min(part_sizes(images, number)) >= count]
    larger = f"a larger train.batch_size, such as {count * asked * world}"
    if asked == 1 or images < count:
        return f"use {larger}, or fewer processes." if world > 1 else f"use {larger}."
    fewer = f"set train.grad_accum_steps to {fitting[-1]}" if fitting else "remove train.grad_accum_steps"
    return f"{fewer}, or use {larger}."
