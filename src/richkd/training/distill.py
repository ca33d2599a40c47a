"""``richkd.distill``: a run from settings, or the training of a module with a loader of one's own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, overload

from torch import nn, optim

from richkd.config.schema import Config
from richkd.core.errors import ConfigError
from richkd.loops.batches import Batches
from richkd.loops.callbacks import Callback
from richkd.loops.distiller import Distiller
from richkd.loops.loop import train
from richkd.training.run import Run
from richkd.training.run import distill as run_of

OF_LOOP = ("epochs", "optimizer", "validation", "callbacks")


@overload
def distill(
    student: Config,
    *,
    resume: bool = False,
    overwrite: bool = False,
    quiet: bool = False,
    accept_changed_images: bool = False,
    callbacks: Sequence[Callback] = (),
) -> Run: ...


@overload
def distill(
    student: nn.Module,
    batches: Batches,
    *,
    epochs: int,
    optimizer: optim.Optimizer | None = None,
    validation: Batches | None = None,
    callbacks: Sequence[Callback] = (),
    **distiller: Any,
) -> list[dict[str, Any]]: ...


def distill(student: Config | nn.Module, batches: Batches | None = None, **options: Any) -> Any:
    """Train a student, from settings or from modules.

    - ``distill(config)`` is ``richkd distill``: it opens data and models, trains, evaluates and saves, and
      returns a `Run`. For its arguments, see `richkd.training.run.distill`.
    - ``distill(student, batches, teachers=[…], classes=…, size=…, epochs=…)`` trains a module in place and
      returns the mean losses of each epoch. Arguments are those of `richkd.loops.loop.train` and of
      `richkd.loops.distiller.Distiller`.

    Raises:
        RichKDError: wrong settings, models or images.

    Example:
        >>> import torch
        >>> student, teacher = (nn.Sequential(nn.Flatten(), nn.Linear(12, 5)) for _ in range(2))
        >>> batches = [(torch.rand(8, 3, 2, 2), torch.arange(8) % 5)]
        >>> history = distill(student, batches, teachers=[teacher], classes=5, size=2, epochs=3)
        >>> len(history)
        3
    """
    if isinstance(student, Config) and batches is not None:
        raise ConfigError(
            "A run from settings opens its own data",
            got="settings and batches",
            fix="set data.path, or pass a student that is a module.",
        )
    if isinstance(student, Config):
        run: Callable[..., Run] = run_of
        return run(student, **options)
    if batches is None:
        raise ConfigError(
            "A student that is a module needs batches to learn from",
            got="none",
            fix="pass a loader of (pixels, labels) as second argument.",
        )
    of_loop = {name: options.pop(name) for name in OF_LOOP if name in options}
    if "epochs" not in of_loop:
        raise ConfigError("A training needs a number of epochs", got="none", fix="pass epochs=30.")
    return train(Distiller(student, **options), batches, **of_loop)
