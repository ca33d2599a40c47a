"""The training state and the training step. Losses are in `richkd.losses`, methods in `richkd.methods`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NoReturn, cast

import torch
from accelerate import Accelerator
from timm.utils import ModelEmaV3
from torch import Tensor, nn

from richkd.core.checkpoint_file import Checkpoint
from richkd.core.device import moved
from richkd.core.errors import NonFiniteError, RichKDError
from richkd.core.finite import non_finite
from richkd.core.interrupt import Interrupted, StopRequest
from richkd.core.processes import agreed, meet, rank, sent, world
from richkd.core.progress import Progress
from richkd.core.types import Batch, LossTerms
from richkd.data.shares import Share, images_of, shares_of
from richkd.loops.callbacks import Callback
from richkd.metrics.accuracy import measure
from richkd.models.build import Network
from richkd.pipeline.assemble import Parts
from richkd.teachers.predict import logits_of
from richkd.training.agreed_batches import UNREADABLE, agreed_on
from richkd.training.batch_parts import refuse_small_parts
from richkd.training.checkpoint import load_checkpoint, load_module, save_checkpoint
from richkd.training.failures import (
    SMALLER_STEPS,
    NonFiniteDetector,
    raise_with_batch_size_advice,
    valid_checkpoint,
)
from richkd.training.optimizer import build_optimizer, optimizer_numbers, optimizer_tensors, restore_optimizer
from richkd.training.part_losses import PartLosses, Remembered
from richkd.training.plan import Plans, plan_again
from richkd.training.reduction import Flags, add_up, same_everywhere
from richkd.training.run_folder import RunFolder
from richkd.training.schedule import learning_rate
from richkd.training.task import Task


class Trainer:
    """The training state: weights, optimizer, state of the terms, averaged weights and number of the step.

    Args:
        parts: data, student, teachers and settings of the run.
        accelerator: device and processes.
        folder: where checkpoints and logs are written.
        callbacks: called after each step.
    """

    def __init__(
        self,
        parts: Parts,
        accelerator: Accelerator,
        folder: RunFolder,
        callbacks: Sequence[Callback] = (),
    ) -> None:
        self.parts, self.config, self.folder, self.accelerator = parts, parts.config, folder, accelerator
        self.device, self.callbacks = parts.device, callbacks
        refuse_small_parts(parts)
        self.task = Task(parts).to(self.device).to(memory_format=torch.channels_last)
        same_everywhere(self.task)
        self.optimizer = build_optimizer(self.task, self.config.optim)
        decay = self.config.train.ema_decay
        self.average = ModelEmaV3(self.task.student, decay=decay) if decay else None
        self.order = parts.order()
        self.losses = PartLosses(parts, self.task, self.order.steps)
        if parts.speed.compiled and world() == 1:
            self.task.compile_student()
        self.detector = NonFiniteDetector(parts.data.splits["train"], self.order.steps, folder.last)
        self.step = 0
        self.best_top1 = -1.0
        self.plans: Plans = [[0, self.config.train.epochs]]
        # Whether an image of the validation after the last step could not be read.
        self.unvalidated = False
        # Which images of the step this process computes.
        self.shares: tuple[Share, ...] = ()
        # What processes tell each other in every step.
        self.flags = Flags()
        # Sums over the steps of the current epoch, kept on the device so that no step waits for them.
        self.sums: dict[str, Tensor] = {}

    @property
    def total_steps(self) -> int:
        return self.order.steps * self.config.train.epochs

    @property
    def epoch(self) -> int:
        return self.step // self.order.steps - self.unvalidated

    @property
    def shipped(self) -> Network:
        """The network that is evaluated and saved: the averaged weights if ``train.ema_decay`` is set."""
        return cast(Network, self.average.module) if self.average else self.task.student

    def train_epoch(self, progress: Progress, stop: StopRequest) -> None:
        """Run the remaining steps of the epoch, with checkpoints every ``train.save_every`` steps.

        No checkpoint is saved after the last step: `end_epoch` must first add the epoch's line to
        ``metrics.jsonl``, which a run resumed from such a checkpoint would not write.

        Raises:
            Interrupted: a stop was requested; a checkpoint was saved after the current step.
            DataError, WorkerError: images cannot be read; a checkpoint was saved after the last step.
        """
        first = self.step - self.epoch * self.order.steps
        self.task.train()
        steps = [self._shares(index_S) for index_S in self.order.epoch(self.epoch, first)]
        for batch, shares in self._saved_if_unreadable(steps):
            if first == 0 and self.step % self.order.steps == 0:
                self.sums = {}
            self.flags.stop = stop.requested
            self.shares = shares
            terms = self.train_step(batch)
            for name, value in terms.items():
                self.sums[name] = self.sums[name] + value if name in self.sums else value
            self.step += 1
            for callback in self.callbacks:
                callback.on_step(self.step, terms)
            progress.advance(shares[0].of_step, self.means())
            if self.step % self.order.steps == 0:
                continue
            every = self.config.train.save_every
            stopping = stop.requested if world() == 1 else self.flags.stop
            if stopping or (every and self.step % every == 0):
                self.save()
            if stopping:
                # A launcher ends all processes as soon as one has ended.
                meet()
                raise Interrupted

    def train_step(self, batch: Batch) -> dict[str, Tensor]:
        """One optimizer step; returns the detached loss terms.

        Args:
            batch: the images of `shares` that this process computes; the whole step if there are none.

        Raises:
            NonFiniteError: a loss is NaN or infinite.
            DeviceMemoryError: the batch does not fit in memory; names the setting to change.
        """
        config = self.config
        rate = learning_rate(config.optim, self.step, self.order.steps, config.train.epochs)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad(set_to_none=True)
        totals: dict[str, Tensor] = {}
        remembered: list[tuple[Tensor, Remembered]] = []
        shares = self.shares or self._shares(batch.index_B)
        for part, share in zip(batch.split_at([s.computed for s in shares]), shares, strict=True):
            try:
                terms = self._backward(part, share)
            except RuntimeError as error:
                attempt = partial(self.losses.attempt, step=self.step)
                raise_with_batch_size_advice(error, batch, config.train.grad_accum_steps, attempt)
                raise
            remembered.append((moved(share.index_P, self.device), terms.memory))
            for name, value in terms.terms.items():
                totals[name] = totals.get(name, value.new_zeros(())) + value.detach() * share.of_whole
        if world() > 1:
            totals = self._over_processes(totals)
        if config.optim.max_grad_norm:
            nn.utils.clip_grad_norm_(self.task.parameters(), config.optim.max_grad_norm)
        self.optimizer.step()
        for index_P, memory in remembered:
            if memory:
                self.task.objective.remember(index_P, memory)
        if self.average is not None:
            self.average.update(self.task.student, step=self.step)
        return totals

    def _backward(self, batch: Batch, share: Share) -> LossTerms:
        """The losses of a part of the step, whose gradients are added to those of other parts."""
        targets = self.losses.targets(batch, self.step)
        terms = self.losses.losses(batch, targets, share, self.step)
        self.detector.record(terms, batch.index_B, self.step, self.parts.taught(targets))
        torch.autograd.backward(terms.total * share.of_whole)
        return terms

    def _over_processes(self, totals: dict[str, Tensor]) -> dict[str, Tensor]:
        """Add up gradients and loss terms over all processes, and agree on whether to stop."""
        values = torch.stack([value.float() for value in totals.values()])
        numbers = torch.cat([values, self.detector.numbers(self.step)])
        numbers = add_up(self.task.parameters(), numbers, self.flags)
        self.detector.add_sums(numbers)
        return dict(zip(totals, numbers[: len(totals)], strict=True))

    def _shares(self, index_S: Tensor) -> tuple[Share, ...]:
        return shares_of(index_S, self.config.train.grad_accum_steps, rank(), world())

    def means(self) -> dict[str, Tensor]:
        """Mean of each loss term over the steps of this epoch so far."""
        done = (self.step - 1) % self.order.steps + 1
        return {name: value / done for name, value in self.sums.items()}

    def end_epoch(self) -> dict[str, Any]:
        """Validate if due, append the epoch's line to ``metrics.jsonl`` and save; returns the line.

        Raises:
            NonFiniteError: a loss, weight or optimizer state is NaN or infinite; nothing is saved.
            DataError, WorkerError: images cannot be read; a checkpoint was saved. A run that is resumed from
                it validates first.
        """
        config, epoch = self.config.train, self.step // self.order.steps - 1
        record: dict[str, Any] = {
            "epoch": epoch,
            "step": self.step,
            "lr": learning_rate(self.config.optim, self.step - 1, self.order.steps, config.epochs),
        }
        record |= {f"train/{name}": float(value) for name, value in self.means().items()}
        validate = "val" in self.parts.stores.names and (
            (epoch + 1) % config.eval_every == 0 or epoch + 1 == config.epochs
        )
        better = False
        # Outputs of a student with bad weights would be blamed on validation images.
        self.detector.check()
        self._refuse_bad_state(self._state())
        self.parts.exchange_caches()
        if validate:
            store = self.parts.stores.clean("val")
            try:
                logits_NC = logits_of(self.shipped, store, self.device)
            except UNREADABLE as error:
                self.unvalidated = True
                self._save_unreadable(error)
            metrics = measure(logits_NC, store.split.labels_N)
            record |= {"val/top1": metrics.top1, "val/nll": metrics.nll, "val/ece": metrics.ece}
            self.unvalidated = False
            better = metrics.top1 > self.best_top1
            self.best_top1 = max(metrics.top1, self.best_top1)
        self.accelerator.log(
            {name: value for name, value in record.items() if "/" in name or name == "lr"}, step=epoch
        )
        if self.accelerator.is_main_process:
            self.folder.append(self.folder.metrics, record)
            if better:
                save_checkpoint(self.folder.best, self._checkpoint())
        self.save()
        return record

    def save(self) -> None:
        """Save ``last.ckpt``.

        Raises:
            NonFiniteError: a loss, weight or optimizer state is NaN or infinite; nothing is saved.
            CheckpointError: the file cannot be written.
        """
        self.detector.check()
        # A resumed run does not repeat the epochs before the checkpoint, so their outputs must be stored now.
        self.parts.flush_caches()
        if self.accelerator.is_main_process:
            save_checkpoint(self.folder.last, self._checkpoint())

    def resume(self) -> list[str]:
        """Load the newest valid checkpoint; returns warnings if it is not the last one or the length changes.

        Raises:
            CheckpointError: no checkpoint can be read, it belongs to another model, or it has more steps than
                ``train.epochs``.
        """
        # The first process reads, because reading also replaces a damaged file.
        checkpoint, warning = sent(agreed(lambda: None if rank() else load_checkpoint(self.folder.last)))
        epochs, step = self.config.train.epochs, checkpoint.scalars["step"]
        planned = checkpoint.scalars.get("plans", self.plans)
        self.plans, other_length = plan_again(planned, step, self.order.steps, epochs, self.config.optim)
        load_module(self.task, checkpoint.part("task"), what="student or method")
        if self.average is not None:
            load_module(self.average.module, checkpoint.part("average"), what="average of weights")
        numbers = checkpoint.scalars.get("optimizer")
        restore_optimizer(self.optimizer, checkpoint.part("optimizer"), numbers)
        sums = checkpoint.part("sums")
        # safetensors does not preserve the order of names, which the lines of metrics.jsonl follow.
        self.sums = {name: sums[name].to(self.device) for name in checkpoint.scalars["terms"]}
        self.step, self.best_top1 = step, checkpoint.scalars["best_top1"]
        self.unvalidated = checkpoint.scalars.get("unvalidated", False)
        if self.accelerator.is_main_process:
            self.folder.forget_after(self.epoch - 1)
        return [message for message in (warning, other_length) if message]

    def _saved_if_unreadable(
        self, steps: list[tuple[Share, ...]]
    ) -> Iterator[tuple[Batch, tuple[Share, ...]]]:
        groups = [images_of(shares) for shares in steps]
        batches = self.parts.training_batches(self.epoch, groups)
        try:
            yield from zip(batches if world() == 1 else agreed_on(batches, self.flags), steps, strict=True)
        except UNREADABLE as error:
            self._save_unreadable(error)

    def _save_unreadable(self, error: RichKDError) -> NoReturn:
        self.save()
        saved = f"A checkpoint of step {self.step} was saved; repeat the command with --resume."
        raise type(error)(error.rule, got=error.got, fix=f"{error.fix} {saved}") from error

    def _state(self) -> dict[str, Tensor]:
        """All tensors of a checkpoint."""
        tensors = {f"task.{name}": t for name, t in self.task.state_dict().items()}
        tensors |= {f"optimizer.{name}": t for name, t in optimizer_tensors(self.optimizer).items()}
        tensors |= {f"sums.{name}": t for name, t in self.sums.items()}
        if self.average is not None:
            tensors |= {f"average.{name}": t for name, t in self.average.module.state_dict().items()}
        return tensors

    def _refuse_bad_state(self, tensors: Mapping[str, Tensor]) -> None:
        """A finite loss can have an infinite gradient. It appears in the weights before the next loss."""
        if got := non_finite(tensors):
            raise NonFiniteError(
                f"Weights became NaN or infinite before step {self.step} (epoch {self.epoch})",
                got=got,
                fix=f"{SMALLER_STEPS}{valid_checkpoint(self.folder.last)}.",
            )

    def _checkpoint(self) -> Checkpoint:
        tensors = self._state()
        self._refuse_bad_state(tensors)
        scalars = {"step": self.step, "best_top1": self.best_top1, "terms": list(self.sums)}
        scalars["plans"] = self.plans
        if self.unvalidated:
            scalars["unvalidated"] = True
        # Most optimizers keep all of their state in tensors.
        if numbers := optimizer_numbers(self.optimizer):
            scalars["optimizer"] = numbers
        return Checkpoint(tensors, scalars)
