"""A run from settings to summary: assemble, train all epochs, evaluate."""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accelerate import Accelerator, DistributedDataParallelKwargs

from richkd.config.resumed import INPUTS
from richkd.config.schema import Config
from richkd.core.device import pick_device
from richkd.core.errors import ConfigError
from richkd.core.interrupt import Interrupted, stop_request
from richkd.core.progress import Progress
from richkd.export.from_checkpoint import describe_checkpoints
from richkd.pipeline.assemble import assemble
from richkd.pipeline.teacher_check import report_sizes, report_teachers
from richkd.training.energy import EnergyMeter
from richkd.training.environment import recorded_environment, threads_of
from richkd.training.finalize import finish
from richkd.training.inputs import ACCEPT
from richkd.training.plan import described
from richkd.training.run_folder import RunFolder
from richkd.training.session import resume_session, start_session
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
    folds: int,
    *,
    resume: bool = False,
    overwrite: bool = False,
    quiet: bool = False,
    accept_changed_images: bool = False,
) -> list[Run]:
    """Train one teacher per fold, each without the images of its fold, in ``out/fold-J``.

    Args:
        config: the settings of every teacher; see :mod:`richkd.config.schema`.
        folds: number of folds, at least 2.
        resume: skip teachers that are finished, and resume the one that was stopped.
        overwrite: replace existing runs.
        quiet: print nothing.
        accept_changed_images: resume the teacher that was stopped although images were replaced.

    Raises:
        ConfigError: fewer than two folds.
        RichKDError: see `distill`.
    """
    if folds < 2:
        raise ConfigError("Out-of-fold teachers need two folds or more", got=str(folds), fix="use --folds 5.")
    runs = []
    for fold in range(folds):
        data = config.data.model_copy(update={"exclude_fold": (fold, folds)})
        selected = config.model_copy(update={"data": data, "out": config.out / f"fold-{fold}"})
        summary = RunFolder(selected.out).summary() if resume else None
        if summary and summary["epochs"] == config.train.epochs:
            runs.append(Run(selected.out, summary))
        else:
            started = RunFolder(selected.out).last.exists()
            resumed, accept = resume and started, accept_changed_images and resume and started
            runs.append(
                distill(
                    selected,
                    resume=resumed,
                    overwrite=overwrite,
                    quiet=quiet,
                    accept_changed_images=accept,
                )
            )
    return runs


def distill(
    config: Config,
    *,
    resume: bool = False,
    overwrite: bool = False,
    quiet: bool = False,
    accept_changed_images: bool = False,
) -> Run:
    """Train a student, evaluate it and save it.

    Args:
        config: the settings; see :mod:`richkd.config.schema`.
        resume: resume the run in ``config.out`` (bit-identical to an uninterrupted run). The folder, the data
            and the models may have been moved. With another ``train.epochs``, the run is ended earlier or
            later than it was planned.
        overwrite: replace the run in ``config.out``.
        quiet: print nothing.
        accept_changed_images: resume the run although images were replaced.

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
    device = pick_device(config.train.device)
    accelerator = Accelerator(
        cpu=device.type == "cpu",
        log_with=list(config.train.trackers) or None,
        project_dir=str(config.out),
        kwargs_handlers=[DistributedDataParallelKwargs(broadcast_buffers=False)],
    )
    folder = RunFolder(config.out)
    if accelerator.is_main_process:
        folder.accept(config, resume=resume, overwrite=overwrite)
    progress = Progress(quiet=quiet or not accelerator.is_main_process)
    if accelerator.num_processes > 1:
        device = accelerator.device
    with threads_of(recorded_environment(config.out) if resume else {}, progress.log):
        parts = assemble(config, device, progress.log, folder.speeds() if resume else {})
        if parts.stores.training is None:
            raise ConfigError(
                "There is no training split", got=", ".join(parts.stores.names), fix="check --data."
            )
        # An unknown optimizer must be found before the folder is changed.
        trainer = Trainer(parts, accelerator, folder)
        _begin(trainer, progress, resume=resume, overwrite=overwrite, accept=accept_changed_images)
        return Run(config.out, _train(trainer, progress))


def _begin(trainer: Trainer, progress: Progress, *, resume: bool, overwrite: bool, accept: bool) -> None:
    """Load the checkpoint of a resumed run, and write what is known of the run into its folder."""
    parts, folder, accelerator = trainer.parts, trainer.folder, trainer.accelerator
    if resume:
        session = resume_session(trainer, accept_changed_images=accept, log=progress.log)
    else:
        session = start_session(trainer)
    if accelerator.is_main_process:
        folder.create(parts.config, parts.speeds, overwrite=overwrite, session=session.environment)
        folder.write_json(INPUTS, session.inputs)
        describe_checkpoints(
            folder.last.parent, trainer.task.student, parts.data.class_names, trainer.order.steps
        )
    accelerator.wait_for_everyone()
    accelerator.init_trackers("events")
    if accelerator.is_main_process and not resume:
        report_sizes(parts, progress.log)
        report_teachers(parts, progress.log)


def _train(trainer: Trainer, progress: Progress) -> dict[str, Any]:
    """Train the remaining epochs, evaluate and save the student; returns the summary."""
    parts, folder, accelerator = trainer.parts, trainer.folder, trainer.accelerator
    epochs = parts.config.train.epochs
    began, meter = time.perf_counter(), EnergyMeter()
    with ExitStack() as end, stop_request() as stop, progress:
        # Also flush curves and caches to disk if the run ends with an error.
        end.callback(accelerator.end_training)
        end.callback(parts.flush_caches)
        for epoch in range(trainer.epoch, epochs):
            done = trainer.step - epoch * trainer.order.steps
            progress.start_epoch(epoch, epochs, trainer.order.steps, done)
            trainer.train_epoch(progress, stop)
            record = trainer.end_epoch()
            timing = progress.end_epoch(record)
            meter.sample()
            if accelerator.is_main_process:
                folder.append(folder.timing, {"epoch": epoch, **timing})
            if stop.requested:
                raise Interrupted
    facts: dict[str, Any] = {
        "steps": trainer.step,
        "seconds": round(time.perf_counter() - began, 1),
        "joules": meter.joules,
    }
    if len(trainer.plans) > 1:
        facts["planned_epochs"] = described(trainer.plans)
    summary = finish(parts, trainer.shipped, folder, facts, write=accelerator.is_main_process)
    parts.flush_caches()
    progress.log_summary(summary)
    return summary
