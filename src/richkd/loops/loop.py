"""A plain training loop for a student and teachers that are given as modules."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from richkd.core.errors import ConfigError, DataError, NonFiniteError
from richkd.loops.batches import Batches, device_of, parts_of
from richkd.loops.callbacks import Callback
from richkd.loops.distiller import Distiller


def train(
    distiller: Distiller,
    batches: Batches,
    *,
    epochs: int,
    optimizer: torch.optim.Optimizer | None = None,
    validation: Batches | None = None,
    callbacks: Sequence[Callback] = (),
) -> list[dict[str, Any]]:
    """Train a student for some epochs.

    Args:
        distiller: student, teachers and terms, on their device.
        batches: iterated once per epoch: tuples (pixels, labels) or (pixels, labels, positions), or mappings
            with ``pixel_values``, ``labels`` and, optionally, ``index``.
        epochs: number of epochs.
        optimizer: by default AdamW with learning rate 1e-3 and a cosine schedule. A given one is used as it
            is; it must have the parameters of the distiller, not only those of the student.
        validation: batches on which the accuracy is computed after each epoch.
        callbacks: called while it trains.

    Returns:
        For each epoch the mean of each loss, and ``top1`` in [0, 1] if there is a validation.

    Raises:
        ConfigError: no epochs, an optimizer without the parameters of the terms, or batches without a length
            for terms that change during the training.
        DataError: an epoch without batches, or a batch of another form.
        NonFiniteError: a loss is NaN or infinite; the student keeps the weights of the step before.

    Example:
        >>> student, teacher = (nn.Sequential(nn.Flatten(), nn.Linear(12, 5)) for _ in range(2))
        >>> distiller = Distiller(student, [teacher], classes=5, size=2)
        >>> history = train(distiller, [(torch.rand(8, 3, 2, 2), torch.arange(8) % 5)], epochs=2)
        >>> len(history), sorted(history[0])
        (2, ['ce', 'kd'])
    """
    if epochs < 1:
        raise ConfigError("A training has at least one epoch", got=str(epochs), fix="set epochs=30.")
    trained = [parameter for parameter in distiller.parameters() if parameter.requires_grad]
    is_default = optimizer is None
    optimizer = optimizer or torch.optim.AdamW(trained, lr=1e-3)
    _check_optimizer(optimizer, trained)
    length = _length(batches, epochs)
    distiller.plan(length)
    falling = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, length) if length and is_default else None
    for callback in callbacks:
        callback.on_start(length or 0)
    history = []
    for epoch in range(epochs):
        record: dict[str, Any] = _epoch(distiller, batches, optimizer, falling, callbacks)
        if validation is not None:
            record["top1"] = accuracy(distiller.student, validation)
        history.append(record)
        for callback in callbacks:
            callback.on_epoch(epoch, record)
    for callback in callbacks:
        callback.on_end(history)
    return history


def accuracy(student: nn.Module, batches: Batches) -> float:
    """Share of images that a student classifies correctly, in [0, 1].

    Args:
        student: a module that returns an `Output`, such as the ``student`` of a distiller.
        batches: as in `train`.

    Raises:
        DataError: there are no images, or a batch has another form.

    Example:
        >>> from richkd.loops.models import LogitModel
        >>> student = LogitModel(lambda pixels_B3HW: pixels_B3HW.mean((2, 3)), "student")
        >>> accuracy(student, [(torch.eye(3).reshape(3, 3, 1, 1), torch.tensor([0, 1, 1]))])
        0.6666666666666666
    """
    right = count = 0
    student.eval()
    with torch.inference_mode():
        for batch in batches:
            pixels_B3HW, labels_B, _ = parts_of(batch, device_of(student))
            right += int((student(pixels_B3HW).logits_BC.argmax(dim=1) == labels_B).sum())
            count += len(labels_B)
    if not count:
        raise DataError("Accuracy needs images", got="none", fix="pass a loader or a list, not an iterator.")
    return right / count


def _length(batches: Batches, epochs: int) -> int | None:
    """The number of all steps; None if the number of batches is not known."""
    try:
        return epochs * len(batches)  # type: ignore[arg-type]
    except TypeError:
        # Every loader of PyTorch has __len__, which raises this for a stream of images.
        return None


def _epoch(
    distiller: Distiller,
    batches: Batches,
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler | None,
    callbacks: Sequence[Callback],
) -> dict[str, float]:
    """One pass over the batches; returns the mean of each loss."""
    distiller.train()
    sums: dict[str, Tensor] = {}
    count = 0
    for batch in batches:
        losses = _step(distiller, optimizer, batch)
        if schedule is not None:
            schedule.step()
        sums = {name: sums.get(name, 0.0) + value for name, value in losses.items()}
        count += 1
        for callback in callbacks:
            callback.on_step(distiller.step, losses)
    if not count:
        raise DataError("Every epoch needs batches", got="none", fix="pass a loader or a list, no iterator.")
    return {name: float(value) / count for name, value in sums.items()}


def _step(distiller: Distiller, optimizer: torch.optim.Optimizer, batch: Any) -> dict[str, Tensor]:
    pixels_B3HW, labels_B, index_B = parts_of(batch, device_of(distiller))
    losses = distiller(pixels_B3HW, labels_B, index_B)
    if not torch.isfinite(losses.total):
        values = ", ".join(f"{name} {value.detach():.4g}" for name, value in losses.terms.items())
        raise NonFiniteError(
            f"A loss became NaN or infinite at step {distiller.step}",
            got=values,
            fix="use a smaller learning rate, or clip gradients in a loop of your own.",
        )
    optimizer.zero_grad(set_to_none=True)
    losses.total.backward()
    optimizer.step()
    distiller.after_step()
    return {name: value.detach() for name, value in losses.terms.items()}


def _check_optimizer(optimizer: torch.optim.Optimizer, trained: Sequence[nn.Parameter]) -> None:
    known = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    missing = sum(id(parameter) not in known for parameter in trained)
    if missing:
        raise ConfigError(
            "The optimizer must have all parameters of the distiller",
            got=f"{missing} of {len(trained)} are missing",
            fix="build it from distiller.parameters(): terms have projections that are trained, too.",
        )
