"""A run from settings to summary: assemble, train all epochs, evaluate."""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accelerate import Accelerator, DistributedDataParallelKwargs

from richkd.config.schema import Config
from richkd.core.device import pick_device
from richkd.core.errors import ConfigError
from richkd.core.interrupt import Interrupted, stop_request
from richkd.core.progress import Progress
from richkd.pipeline.assemble import assemble
from richkd.pipeline.teacher_check import report_sizes, report_teachers
from richkd.training.energy import EnergyMeter
from richkd.training.finalize import finish
from richkd.training.run_folder import RunFolder
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
    config: Config, folds: int, *, resume: bool = False, overwrite: bool = False, quiet: bool = False
) -> list[Run]:
    """Train one teacher per fold, each without the images of its fold, in ``out/fold-J``.

    Args:
        config: the settings of every teacher; see :mod:`richkd.config.schema`.
        folds: number of folds, at least 2.
        resume: skip teachers that are finished, and resume the one that was stopped.
        overwrite: replace existing runs.
        quiet: print nothing.

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
        if resume and (summary := RunFolder(selected.out).summary()):
            runs.append(Run(selected.out, summary))
        else:
            started = RunFolder(selected.out).last.exists()
            runs.append(distill(selected, resume=resume and started, overwrite=overwrite, quiet=quiet))
    return runs


def distill(config: Config, *, resume: bool = False, overwrite: bool = False, quiet: bool = False) -> Run:
    """Train a student, evaluate it and save it.

    Args:
        config: the settings; see :mod:`richkd.config.schema`.
        resume: resume the run in ``config.out`` (bit-identical to an uninterrupted run).
        overwrite: replace the run in ``config.out``.
        quiet: print nothing.

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
    parts = assemble(config, device, progress.log, folder.speeds() if resume else {})
    if parts.stores.training is None:
        raise ConfigError(
            "There is no training split", got=", ".join(parts.stores.names), fix="check --data."
        )
    # An unknown optimizer must be found before the folder is changed.
    trainer = Trainer(parts, accelerator, folder)
    if accelerator.is_main_process:
        folder.create(config, parts.speeds, overwrite=overwrite)
    accelerator.wait_for_everyone()
    inputs = folder.inputs()
    accelerator.init_trackers("events")
    if accelerator.is_main_process and not resume:
        report_sizes(parts, progress.log)
        report_teachers(parts, progress.log)
    if resume and (warning := trainer.resume()):
        progress.log(f"warning: {warning}")
    began, meter = time.perf_counter(), EnergyMeter()
    with ExitStack() as end, stop_request() as stop, progress:
        # Also flush curves and caches to disk if the run ends with an error.
        end.callback(accelerator.end_training)
        end.callback(parts.flush_caches)
        for epoch in range(trainer.epoch, config.train.epochs):
            done = trainer.step - epoch * trainer.order.steps
            progress.start_epoch(epoch, config.train.epochs, trainer.order.steps, done)
            trainer.train_epoch(progress, stop)
            record = trainer.end_epoch()
            timing = progress.end_epoch(record)
            meter.sample()
            if accelerator.is_main_process:
                folder.append(folder.timing, {"epoch": epoch, **timing})
            if stop.requested:
                raise Interrupted
    seconds = time.perf_counter() - began
    summary = finish(
        parts,
        trainer.shipped,
        folder,
        {"steps": trainer.step, "seconds": round(seconds, 1), "joules": meter.joules, "inputs": inputs},
        write=accelerator.is_main_process,
    )
    parts.flush_caches()
    progress.log_summary(summary)
    return Run(config.out, summary)
