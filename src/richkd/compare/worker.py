"""One run of a queue in a process of its own: train or resume it, then store its test logits."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import shutil
import signal
import sys
import threading
import time
import traceback
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Literal

from richkd.config.schema import Config

# How long a run waits for a process of a killed comparison, which saves its state and ends.
PATIENCE, PAUSE = 600.0, 0.5


@dataclass(frozen=True)
class Job:
    """A run for a process of the queue.

    Attributes:
        name: name of the run.
        config: its settings.
        logits: the file of its test logits; None to store none.
        log: the file of its messages.
        threads: number of threads; None for PyTorch's own choice.
        keep_checkpoints: whether the checkpoints of the finished run are kept.
        splits: the splits that are evaluated; None for all.
    """

    name: str
    config: Config
    logits: Path | None
    log: Path
    threads: int | None = None
    keep_checkpoints: bool = True
    splits: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Outcome:
    """How a run ended.

    Attributes:
        state: "finished", "failed", or "stopped" by a signal.
        reason: why it failed, in one line, or from where a stopped run goes on; empty if its state was saved.
        disk_full: whether it failed because there is no space on the disk.
        ended: whether it failed because a signal ended its process, so that it can go on.
    """

    state: Literal["finished", "failed", "stopped"]
    reason: str = ""
    disk_full: bool = False
    ended: bool = False


def serve(job: Job, connection: Connection) -> None:
    """Do a job in a process that belongs to it alone, and send its `Outcome`."""
    _detach()
    with _messages_in(job.log):
        outcome = attempt(job)
    with contextlib.suppress(OSError):
        connection.send(outcome)


def attempt(job: Job) -> Outcome:
    """Do a job; an error becomes an `Outcome`, and unexpected ones are printed."""
    from richkd.core.errors import RichKDError
    from richkd.core.interrupt import Interrupted
    from richkd.core.visible import one_line

    try:
        finish_run(job)
    except Interrupted:
        return Outcome("stopped")
    except RichKDError as error:
        print(f"error: {type(error).__name__}", str(error), sep="\n", flush=True)
        parts = (error.rule, f"got {error.got}" if error.got else "")
        reason = "; ".join(part for part in parts if part)
        if error.problems:
            reason = "; ".join(problem.rule for problem in error.problems)
        return Outcome("failed", " ".join(reason.split()), is_disk_full(reason))
    except (Exception, SystemExit) as error:
        traceback.print_exc()
        reason = f"{type(error).__name__}: {one_line(error)}"
        return Outcome("failed", reason, is_disk_full(reason))
    return Outcome("finished")


def finish_run(job: Job) -> None:
    """Train or resume a run unless it is finished, and store its test logits unless they are stored.

    Raises:
        RichKDError: see :func:`~richkd.training.run.distill`.
        Interrupted: a signal stopped the run; a checkpoint was saved.
    """
    import torch

    from richkd.compare.logits import store_logits
    from richkd.compare.validate import is_finished
    from richkd.training.environment import THREAD_VARIABLES
    from richkd.training.finalize import REPORTED_SPLITS
    from richkd.training.run import distill
    from richkd.training.run_folder import RunFolder

    if job.threads is not None and not any(os.environ.get(name) for name in THREAD_VARIABLES):
        torch.set_num_threads(job.threads)
    deadline = time.monotonic() + PATIENCE
    while not is_finished(job.config):
        try:
            # A kill before the run began leaves nothing that could be resumed.
            resume, splits = bool(RunFolder(job.config.out).entries()), job.splits or REPORTED_SPLITS
            distill(job.config, resume=resume, splits=splits)
        except Exception as error:
            if is_finished(job.config):
                # A process of a killed comparison ended the run after the check above.
                break
            if not _is_locked(error) or time.monotonic() > deadline:
                raise
            print("the run is still in use by another process: waiting", flush=True)
            time.sleep(PAUSE)
    if job.logits is not None:
        store_logits(job.config, job.logits)
    if not job.keep_checkpoints:
        shutil.rmtree(RunFolder(job.config.out).last.parent, ignore_errors=True)


def is_disk_full(reason: str) -> bool:
    """Whether an error says that there is no space left, or that a quota is used up."""
    import errno

    names = [os.strerror(number) for number in (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))]
    return any(name in reason for name in names)


def _is_locked(error: Exception) -> bool:
    from richkd.core.lock_owners import Locked

    return isinstance(error.__context__, Locked)


def _detach() -> None:
    """Leave the terminal, whose signals are for the comparison, and stop when the comparison ends."""
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_DFL)
    if hasattr(os, "setsid"):
        with contextlib.suppress(OSError):
            os.setsid()
    # A server of processes outlives the comparison while it has any, so its end alone would not be seen.
    above, comparison = os.getppid(), multiprocessing.parent_process()

    def watch() -> None:
        while os.getppid() == above and (comparison is None or comparison.is_alive()):
            time.sleep(PAUSE)
        # The run saves its state and ends, so that another comparison can go on with it.
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()


@contextlib.contextmanager
def _messages_in(log: Path):  # type: ignore[no-untyped-def]
    """Context in which everything that is printed goes to a file, or nowhere if it cannot be written."""
    from richkd.core.output import lasting

    descriptor = None
    with contextlib.suppress(OSError):
        log.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    if descriptor is None:
        descriptor = os.open(os.devnull, os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(descriptor, stream)
    sys.stdout = open(1, "w", closefd=False, buffering=1)  # noqa: SIM115
    sys.stderr = open(2, "w", closefd=False, buffering=1)  # noqa: SIM115
    with lasting("stdout", "stderr"):
        yield
