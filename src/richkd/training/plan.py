"""The planned lengths of a run: a resumed run can be ended earlier or later than it was planned."""

from __future__ import annotations

from collections.abc import Sequence

from richkd.config.schema import OptimConfig
from richkd.core.errors import CheckpointError
from richkd.core.visible import counted
from richkd.training.schedule import learning_rate

# First step and number of epochs of each plan.
Plans = list[list[int]]


def plan_again(
    plans: Sequence[Sequence[int]], step: int, steps_per_epoch: int, epochs: int, optim: OptimConfig
) -> tuple[Plans, str | None]:
    """The plans of a run that is resumed at a step, and a message if its length changes.

    The learning rate is a function of the step and the length of the run. Steps that were made keep the rates
    of their plan, and those to come have the rates of the new one.

    Args:
        plans: the plans so far; see `Plans`.
        step: number of steps made.
        steps_per_epoch: optimizer steps in one epoch.
        epochs: epochs of the whole run, as now planned.
        optim: the schedule of the learning rate.

    Raises:
        CheckpointError: the run has already made more steps than these epochs have.

    Example:
        >>> plan_again([[0, 20]], 36, 4, 20, OptimConfig())
        ([[0, 20]], None)
        >>> plans, message = plan_again([[0, 20]], 36, 4, 30, OptimConfig(milestones=()))
        >>> plans
        [[0, 20], [36, 30]]
        >>> print(message)
        epochs: 20 then 30, from step 36 (9 epochs done). A new run of 30 epochs has the same learning rates.
    """
    kept = [list(plan) for plan in plans]
    planned = kept[-1][1]
    if epochs * steps_per_epoch < step:
        raise _fewer_than_done(step, steps_per_epoch, epochs)
    if epochs == planned:
        return kept, None
    kept = [*(plan for plan in kept if plan[0] < step), [step, epochs]]
    since = f"from step {step} ({counted(step // steps_per_epoch, 'epoch')} done)"
    return kept, f"epochs: {described(kept)}, {since}. {_rates(kept, steps_per_epoch, optim)}"


def described(plans: Sequence[Sequence[int]]) -> str:
    """The planned numbers of epochs, in order.

    Example:
        >>> described([[0, 20], [36, 30]])
        '20 then 30'
    """
    return " then ".join(str(epochs) for _, epochs in plans)


def _fewer_than_done(step: int, steps_per_epoch: int, epochs: int) -> CheckpointError:
    done, begun = divmod(step, steps_per_epoch)
    least = done + (begun > 0)
    return CheckpointError(
        f"A resumed run cannot have fewer epochs than it has made (train.epochs {epochs})",
        got=f"{counted(done, 'epoch')} done" + (f", and is in epoch {least}" if begun else ""),
        fix=f"use --epochs {least} to end it after epoch {least}; with `--checkpoint best`, richkd predict "
        "and richkd evaluate use the student of the best epoch.",
    )


def _rates(plans: Plans, steps_per_epoch: int, optim: OptimConfig) -> str:
    """How the learning rates of the run differ from those of a new run of the same length."""
    step, epochs = plans[-1]
    ends = [first for first, _ in plans[1:]]
    largest = 0.0
    for (first, length), end in zip(plans, ends, strict=False):
        for place in range(first, end):
            was = learning_rate(optim, place, steps_per_epoch, length)
            largest = max(largest, abs(was - learning_rate(optim, place, steps_per_epoch, epochs)))
    if largest == 0:
        return f"A new run of {counted(epochs, 'epoch')} has the same learning rates."
    if step == epochs * steps_per_epoch:
        return "The run ends now, before its learning rate has fallen as planned."
    rate = learning_rate(optim, step, steps_per_epoch, epochs)
    before = learning_rate(optim, step, steps_per_epoch, plans[-2][1])
    return (
        f"The next learning rate is {rate:.4g} (so far planned: {before:.4g}). The result is not that of a "
        f"new run of {counted(epochs, 'epoch')}, whose rates differ by up to {largest:.4g} in the steps made "
        "so far."
    )
