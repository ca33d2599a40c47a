"""Refuse parts of batches that are too small for a loss term."""

from __future__ import annotations

from richkd.core.errors import ConfigError
from richkd.data.shares import part_sizes
from richkd.pipeline.assemble import Parts

WORDS = {2: "two", 3: "three"}


def refuse_small_parts(parts: Parts) -> None:
    """Check that every part of gradient accumulation has the images that the loss terms need.

    All steps have the same number of images (`TrainingOrder`). The parts do not depend on the number of
    processes. Each has two images or more, which is enough for batch normalization.

    Raises:
        ConfigError: a part with fewer images than a term needs.
    """
    batch, asked = parts.order().images_of_step, parts.config.train.grad_accum_steps
    sizes = part_sizes(batch, asked)
    terms = [spec for spec in parts.specs if spec.term.least_images > min(sizes)]
    if not terms:
        return
    most = max(terms, key=lambda spec: spec.term.least_images)
    count = most.term.least_images
    raise ConfigError(
        f"Each part of a batch must have {WORDS.get(count, count)} images or more, because term "
        f"objective.{most.label} computes over several images",
        got=f"a batch of {_batch(parts)}, train.grad_accum_steps {asked}: parts of {_listed(sizes)} images",
        fix=_fix(batch, asked, count),
    )


def _batch(parts: Parts) -> str:
    """The number of images in a batch, for the message."""
    order = parts.order()
    text = f"{order.images_of_step} images"
    if order.images_of_step < parts.config.train.batch_size:
        text += f" (train.batch_size {parts.config.train.batch_size}, but {order.images} training images)"
    return text


def _listed(sizes: list[int]) -> str:
    shown = [str(size) for size in sizes]
    return ", ".join(shown) if len(shown) <= 4 else f"{shown[0]}, {shown[1]}, … and {shown[-1]}"


def _fix(images: int, asked: int, count: int) -> str:
    """The largest number of parts that all have ``count`` images or more, or a larger batch."""
    fitting = [number for number in range(2, asked) if min(part_sizes(images, number)) >= count]
    # Parts are cut at even positions.
    larger = f"a larger train.batch_size, such as {(count + count % 2) * asked}"
    if asked == 1 or images < count:
        return f"use {larger}."
    fewer = f"set train.grad_accum_steps to {fitting[-1]}" if fitting else "remove train.grad_accum_steps"
    return f"{fewer}, or use {larger}."
