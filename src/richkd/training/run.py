"""A run from settings to summary: assemble, train all epochs, evaluate."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from richkd.config.folds import FOLDS
from richkd.config.schema import Config
from richkd.core.errors import ConfigError
from richkd.core.freed_memory import return_freed_memory
from richkd.core.interrupt import Interrupted, catch_stop_signals
from richkd.core.launch import join, together
from richkd.core.logs import Log
from richkd.core.processes import meet, on_first, world
from richkd.core.progress import Progress
from richkd.core.temporary import remove_abandoned
from richkd.export.from_checkpoint import DESCRIPTION, describe_network
from richkd.loops.callbacks import Callback
from richkd.pipeline.assemble import assemble
from richkd.pipeline.teacher_check import report_sizes, report_teachers
from richkd.training.energy import EnergyMeter
from richkd.training.environment import recorded_environment, threads_of
from richkd.training.finalize import REPORTED_SPLITS, finish
from richkd.training.fold_folder import prepare_folds
from richkd.training.inputs import ACCEPT
from richkd.training.plan import described
from richkd.training.run_folder import RunFolder
from richkd.training.same_settings import refuse_other_settings
from richkd.training.session import Session, resume_session, start_session
from richkd.training.trackers import PROJECT, refuse_missing_trackers, start_outside, trackers_of
from richkd.training.trainer import Trainer


@dataclass(frozen=True)
class Run:
    """A finished run, as `distill` returns it.

    Attributes:
        folder: the run folder.
        summary: the content of ``summary.json``.

    Example:
        >>> run = Run(Path("runs/small"), {"splits": {"test": {"top1": 0.9}}})
        >>> run.summary["splits"]["test"]["top1"]
        0.9
    """

    folder: Path
    summary: dict[str, Any]


def teach_folds(
    config: Config,
    folds: int = FOLDS,
    *,
    full: Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    quiet: bool = False,
    accept_changed_images: bool = False,
) -> list[Run]:
    """Train one teacher per fold, each without the images of its fold, in ``out/fold-J``.

    The cost is printed before the first teacher is trained.

    Args:
        config: the settings of every teacher; :func:`~richkd.config.teacher_run.recipe_of` reads a run's.
        folds: number of folds, at least 2.
        full: the run folder of the full teacher. It is recorded, so that ``fold_share`` can blend with it.
        resume: keep teachers that are finished, and go on with the others wherever they were stopped.
        overwrite: replace existing runs.
        quiet: print nothing.
        accept_changed_images: resume the teacher that was stopped although images were replaced.

    Raises:
        ConfigError: fewer than two folds, a fold that is already left out, or starting weights that were
            trained on the images of a fold.
        RichKDError: the full teacher was trained on other images or classes, or see `distill`.
    """
    if folds < 2:
        raise ConfigError(
            "Out-of-fold teachers need two folds or more", got=str(folds), fix=f"use --folds {FOLDS}."
        )
    refuse_missing_trackers(config.train.trackers)
    join(config.train.device, config.train.process_timeout)
    how = {"resume": resume, "overwrite": overwrite, "quiet": quiet}
    how["accept_changed_images"] = accept_changed_images
    # The folder of all folds is locked, too: another command must not begin with the next fold.
    with together(), ExitStack() as end:
        on_first(lambda: _keep_locked(RunFolder(config.out), end))
        on_first(lambda: prepare_folds(config, folds, full, resume=resume, overwrite=overwrite, quiet=quiet))
        return [_teach_fold(config, fold, folds, **how) for fold in range(folds)]


def of_fold(config: Config, fold: int, folds: int) -> Config:
    """The settings of the teacher of one fold, from those of all.

    Example:
        >>> config = Config(data={"path": "photos"}, student={"name": "resnet18"}, out="runs/teachers")
        >>> fold = of_fold(config, 1, 5)
        >>> fold.data.exclude_fold, fold.out.as_posix()
        ((1, 5), 'runs/teachers/fold-1')
    """
    data = config.data.model_copy(update={"exclude_fold": (fold, folds)})
    return config.model_copy(update={"data": data, "out": config.out / f"fold-{fold}"})


def _teach_fold(
    config: Config,
    fold: int,
    folds: int,
    *,
    resume: bool,
    overwrite: bool,
    quiet: bool,
    accept_changed_images: bool,
) -> Run:
    """Train the teacher of one fold; with ``resume``, keep a finished one and go on with one that began."""
    config = of_fold(config, fold, folds)
    folder = RunFolder(config.out)
    # Another process may already write what this one would read.
    epochs = config.train.epochs
    summary, began = on_first(lambda: (folder.finished(epochs) if resume else None, bool(folder.entries())))
    if summary is not None:
        # An interrupted --overwrite with other settings leaves finished folds of the old ones.
        on_first(lambda: refuse_other_settings(folder.path, config))
        # The process may have been killed when everything but its last hash was written.
        on_first(lambda: remove_abandoned(folder.path))
        return Run(config.out, summary)
    # A kill before the fold began leaves nothing that could be resumed.
    resume = resume and began
    accept = accept_changed_images and resume
    return distill(config, resume=resume, overwrite=overwrite, quiet=quiet, accept_changed_images=accept)


def distill(
    config: Config,
    *,
    resume: bool = False,
    overwrite: bool = False,
    quiet: bool = False,
    accept_changed_images: bool = False,
    callbacks: Sequence[Callback] = (),
    splits: Sequence[str] = REPORTED_SPLITS,
) -> Run:
    """Train a student, evaluate it and save it.

    Args:
        config: the settings; see :mod:`richkd.config.schema`.
        resume: resume the run in ``config.out`` (bit-identical to an uninterrupted run). The folder, the data
            and the models may have been moved. With another ``train.epochs``, the run is ended earlier or
            later than it was planned. If it was killed before its first checkpoint, it starts from the
            beginning.
        overwrite: replace the run in ``config.out``.
        quiet: print nothing.
        accept_changed_images: resume the run although images were replaced.
        callbacks: called while the student is trained, in every process. A record of an epoch is its line of
            ``metrics.jsonl``, and the result is the `Run`.
        splits: the splits on which student and teachers are evaluated at the end; a search has no use for
            test images.

    Returns:
        The run folder and the content of ``summary.json``.

    Raises:
        RichKDError: wrong input, detected before the first step where possible. If images cannot be read
            later, a checkpoint was saved.
        Interrupted: a signal stopped the run; a checkpoint was saved.

    Example:
        >>> import tempfile
        >>> from PIL import Image
        >>> from richkd.config.loading import load_config
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     for number in range(32):
        ...         path = Path(folder, "images", "dark" if number < 16 else "bright", f"{number}.png")
        ...         path.parent.mkdir(parents=True, exist_ok=True)
        ...         Image.new("RGB", (16, 16), (8 * number,) * 3).save(path)
        ...     settings = {"data.path": f"{folder}/images", "train.epochs": 1, "method.name": "ce"}
        ...     settings |= {"student.name": "cifar_resnet8", "student.size": 16, "train.workers": 0}
        ...     run = distill(load_config(None, settings | {"out": f"{folder}/run"}), quiet=True)
        ...     (run.folder / "student" / "model.safetensors").exists(), run.summary["method"]
        (True, 'ce')
    """
    if accept_changed_images and not resume:
        raise ConfigError(f"{ACCEPT} needs --resume", got="a new run", fix="remove it, or add --resume.")
    refuse_missing_trackers(config.train.trackers)
    device = join(config.train.device, config.train.process_timeout)
    _refuse_compiling(config)
    accelerator = Accelerator(cpu=device.type == "cpu", project_dir=str(config.out))
    folder = RunFolder(config.out)
    how = {"resume": resume, "overwrite": overwrite, "accept_changed_images": accept_changed_images}
    with together(), ExitStack() as end:
        # One process writes, so one process locks.
        on_first(lambda: _keep_locked(folder, end))
        on_first(lambda: folder.accept(config, resume=resume, overwrite=overwrite))
        progress = Progress(quiet=quiet or not accelerator.is_main_process)
        recorded = on_first(lambda: recorded_environment(config.out)) if resume else {}
        end.enter_context(threads_of(recorded, progress.log))
        return _run(config, accelerator, device, folder, progress, callbacks, splits, **how)


def _refuse_compiling(config: Config) -> None:
    if world() > 1 and config.train.compile == "always":
        raise ConfigError(
            "The student of a run of several processes is not compiled",
            got="train.compile always",
            fix="remove the setting, or start a single process.",
        )


def _keep_locked(folder: RunFolder, end: ExitStack) -> None:
    """Lock a folder until the end."""
    end.enter_context(folder.locked())


def _run(
    config: Config,
    accelerator: Accelerator,
    device: torch.device,
    folder: RunFolder,
    progress: Progress,
    callbacks: Sequence[Callback],
    splits: Sequence[str],
    *,
    resume: bool,
    overwrite: bool,
    accept_changed_images: bool,
) -> Run:
    speeds, factors, began = on_first(lambda: (folder.speeds(), folder.factors(), folder.has_checkpoint))
    if not resume:
        speeds, factors = {}, {}
    again = resume and not began
    if again:
        progress.log(f"{folder.path} has no checkpoint yet: the run starts from the beginning")
    parts = assemble(config, device, progress.log, speeds, factors)
    if parts.stores.training is None:
        raise ConfigError(
            "There is no training split", got=", ".join(parts.stores.names), fix="check --data."
        )
    # An unknown optimizer must be found before the folder is changed.
    trainer = Trainer(parts, accelerator, folder, callbacks)
    if resume and not again:
        session = resume_session(trainer, accept_changed_images=accept_changed_images, log=progress.log)
    else:
        session = start_session(trainer, again=again, accept_changed_images=accept_changed_images)
    # What a killed run left before its first checkpoint is replaced.
    _begin(trainer, session, progress.log, overwrite=overwrite or again)
    if again or not resume:
        report_sizes(parts, progress.log)
        report_teachers(parts, progress.log)
    return_freed_memory()
    run = Run(config.out, _train(trainer, progress, splits))
    for callback in callbacks:
        callback.on_end(run)
    return run


def _begin(trainer: Trainer, session: Session, log: Log, *, overwrite: bool) -> None:
    """Write what is known of the run into its folder, and open the trackers."""
    parts, folder, accelerator = trainer.parts, trainer.folder, trainer.accelerator
    accelerator.log_with = trackers_of(parts.config.train.trackers, folder.path, log)
    if accelerator.is_main_process:
        start_outside(accelerator.log_with)
        folder.create(
            parts.config,
            parts.speeds,
            overwrite=overwrite,
            session=session.environment,
            inputs=session.inputs,
            factors=parts.factors,
        )
        network = describe_network(trainer.task.student, parts.data.class_names, trainer.order.steps)
        folder.write_json(f"{folder.last.parent.name}/{DESCRIPTION}", network)
    meet()
    accelerator.init_trackers(PROJECT)
    for tracker in accelerator.trackers:
        # Older versions of accelerate leave this to the tracker.
        tracker.start()


def _close_trackers(accelerator: Accelerator) -> None:
    """Write what trackers hold. Accelerate would also part the processes, which evaluate together next."""
    for tracker in accelerator.trackers:
        tracker.finish()


def _train(trainer: Trainer, progress: Progress, splits: Sequence[str]) -> dict[str, Any]:
    """Train the remaining epochs, evaluate and save the student; returns the summary."""
    parts, folder, accelerator = trainer.parts, trainer.folder, trainer.accelerator
    epochs = parts.config.train.epochs
    began, meter = time.perf_counter(), EnergyMeter()
    with ExitStack() as end, catch_stop_signals(once=world() == 1) as stop, progress:
        # Also flush curves and caches to disk if the run ends with an error.
        end.callback(_close_trackers, accelerator)
        end.callback(parts.flush_caches)
        for callback in trainer.callbacks:
            callback.on_start(trainer.total_steps)
        for epoch in range(trainer.epoch, epochs):
            done = trainer.step - epoch * trainer.order.steps
            progress.start_epoch(epoch, epochs, trainer.order.steps, done)
            trainer.train_epoch(progress, stop)
            record = trainer.end_epoch()
            timing = progress.end_epoch(record)
            meter.sample()
            if accelerator.is_main_process:
                folder.append(folder.timing, {"epoch": epoch, **timing})
            for callback in trainer.callbacks:
                callback.on_epoch(epoch, record)
            if stop.requested if world() == 1 else trainer.flags.stop:
                raise Interrupted
    facts: dict[str, Any] = {
        "steps": trainer.step,
        "seconds": round(time.perf_counter() - began, 1),
        "joules": meter.joules,
        "inputs": folder.inputs().get("files", {}),
    }
    if len(trainer.plans) > 1:
        facts["planned_epochs"] = described(trainer.plans)
    summary = finish(parts, trainer.shipped, folder, facts, splits, write=accelerator.is_main_process)
    parts.flush_caches()
    progress.log_summary(summary)
    return summary
