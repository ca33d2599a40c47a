"""A run from its settings to its summary: assemble, train epoch by epoch, finish."""

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
from richkd.training.energy import EnergyMeter
from richkd.training.finalize import finish
from richkd.training.run_folder import RunFolder
from richkd.training.trainer import Trainer


@dataclass(frozen=True)
class Run:
    """A finished run: its folder, and the figures of ``summary.json``."""

    folder: Path
    summary: dict[str, Any]


def teach_folds(
    config: Config, folds: int, *, resume: bool = False, overwrite: bool = False, quiet: bool = False
) -> list[Run]:
    """Train as many teachers, each without one fold of the training images, into ``out/fold-J``.

    Finished ones are passed over by ``resume``.

    Raises:
        RichKDError: as `distill`; fewer than two folds.
    """
    if folds < 2:
        raise ConfigError("Out-of-fold teachers need two folds or more", got=str(folds), fix="try --folds 5.")
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
    """Train a student as the settings say, and evaluate and save it.

    Args:
        config: the settings; see :mod:`richkd.config.schema`.
        resume: go on with the run in ``config.out``; the result is bit-identical to a run never stopped.
        overwrite: replace the run in ``config.out``.
        quiet: print nothing.

    Raises:
        RichKDError: wrong input, found before the first step wherever it can be known.
        Interrupted: a signal stopped the run; it was saved.
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
    parts = assemble(config, device, progress.log)
    if "train" not in parts.stores:
        raise ConfigError("There is no training split", got=", ".join(parts.stores), fix="check --data.")
    if accelerator.is_main_process:
        folder.create(config, overwrite=overwrite)
    accelerator.wait_for_everyone()
    trainer = Trainer(parts, accelerator, folder)
    accelerator.init_trackers("events")
    if resume and (warning := trainer.resume()):
        progress.log(f"warning: {warning}")
    began, meter = time.perf_counter(), EnergyMeter()
    with ExitStack() as end, stop_request() as stop, progress:
        # Curves are flushed to disk however the run ends.
        end.callback(accelerator.end_training)
        end.callback(parts.flush_caches)
        for epoch in range(trainer.epoch, config.train.epochs):
            progress.start_epoch(
                epoch, config.train.epochs, trainer.order.steps, trainer.step % trainer.order.steps
            )
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
        {"steps": trainer.step, "seconds": round(seconds, 1), "joules": meter.joules},
        write=accelerator.is_main_process,
    )
    parts.flush_caches()
    progress.say_summary(summary)
    return Run(config.out, summary)
