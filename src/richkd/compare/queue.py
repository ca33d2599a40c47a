"""The queue: runs in processes of their own, several at once, until all of them ended or a signal comes."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, Literal

from richkd.compare.shared_outputs import SharedOutputs
from richkd.compare.worker import Job, Outcome, serve
from richkd.core.errors import CheckpointError, ProcessError
from richkd.core.interrupt import Interrupted, StopRequest, catch_stop_signals
from richkd.core.visible import one_line

# Seconds between two looks at signals and progress, and until a process that was asked to end is killed.
LOOK, GRACE = 0.2, 600.0
# fork is faster, but not safe once threads or a GPU are used; a server forks from a fresh process.
Start = Literal["forkserver", "spawn", "fork"]
Work = Callable[[Job, Connection], None]


@dataclass
class _Running:
    job: Job
    process: BaseProcess
    connection: Connection


def run_queue(
    jobs: Sequence[Job],
    at_once: int,
    *,
    began: Callable[[Job], None],
    ended: Callable[[Job, Outcome], None],
    look: Callable[[], None] = lambda: None,
    work: Work = serve,
    start: Start | None = None,
) -> dict[str, Outcome]:
    """Do all jobs; a job that fails does not stop the others.

    Args:
        jobs: the jobs, in order; some of them begin later so that teacher outputs are computed once.
        at_once: number of processes at once.
        began, ended: called when a job begins and ends.
        look: called several times a second.
        work: what a process does.
        start: how processes start; by default, by a server that has loaded the libraries.

    Returns:
        How each job ended, by its name.

    Raises:
        CheckpointError: the disk is full. Running jobs were stopped; they save their state if they can.
        ProcessError: no process can start.
        Interrupted: a signal came. Running jobs saved their state.
    """
    context = _context(start)
    outcomes: dict[str, Outcome] = {}
    waiting, running, shared = list(jobs), list[_Running](), SharedOutputs()
    with catch_stop_signals() as stop, _all_ended(running):
        while waiting or running:
            while waiting and len(running) < at_once and not stop.requested:
                job = shared.choose(waiting, [one.job for one in running])
                waiting.remove(job)
                running.append(_begin(context, job, work, stop))
                began(running[-1].job)
            for one in _ended_of(running):
                running.remove(one)
                outcomes[one.job.name] = outcome = _outcome_of(one, stop)
                if outcome.state == "finished":
                    shared.ended(one.job)
                ended(one.job, outcome)
                if outcome.disk_full:
                    raise _full(one.job, outcome)
            look()
            if stop.requested:
                _stop(running)
                raise Interrupted
    return outcomes


def _context(start: Start | None) -> Any:
    methods = multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context(start or ("forkserver" if "forkserver" in methods else "spawn"))
    if context.get_start_method() == "forkserver":
        # Libraries are loaded once, and neither threads nor a GPU are used in the server.
        context.set_forkserver_preload(["richkd.training.run", "richkd.compare.logits"])
    return context


def _begin(context: Any, job: Job, work: Work, stop: StopRequest) -> _Running:
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=work, args=(job, sender), name=f"richkd {job.name}")
    try:
        process.start()
    except (EOFError, OSError) as error:
        if stop.requested:  # the signal also ended the server of processes
            raise Interrupted from None
        raise ProcessError(
            f"A process must start for run {job.name}",
            got=one_line(error) or type(error).__name__,
            fix="repeat the command: finished runs are kept, and the others go on.",
        ) from None
    sender.close()
    return _Running(job, process, receiver)


def _ended_of(running: Sequence[_Running]) -> list[_Running]:
    """The jobs that have ended, after waiting a moment for one."""
    by_sentinel = {one.process.sentinel: one for one in running}
    return [by_sentinel[sentinel] for sentinel in wait(list(by_sentinel), LOOK)]  # type: ignore[index]


def _outcome_of(one: _Running, stop: StopRequest) -> Outcome:
    one.process.join()
    with suppress(EOFError, OSError):
        if one.connection.poll():
            outcome: Outcome = one.connection.recv()
            if outcome.state == "stopped" and not stop.requested:
                return Outcome("failed", "stopped by a signal; its state was saved", ended=True)
            return outcome
    if stop.requested:
        # The signal may have reached all processes, and one that loaded libraries has no state to save.
        return Outcome("stopped", "from its last checkpoint on")
    code = one.process.exitcode or 0
    if code >= 0:
        return Outcome("failed", f"its process ended with status {code} ({one.job.log})")
    with suppress(ValueError):
        name = signal.Signals(-code).name
        memory = ", as when the memory of the machine is full" if name == "SIGKILL" else ""
        return Outcome("failed", f"its process was ended by {name}{memory}", ended=True)
    return Outcome("failed", f"its process was ended by signal {-code}", ended=True)


@contextmanager
def _all_ended(running: list[_Running]) -> Iterator[None]:
    """Context at whose end no process is left."""
    try:
        yield
    finally:
        _stop(running)


def _stop(running: list[_Running]) -> None:
    """Ask processes to save their state and to end, and wait for them."""
    for one in running:
        if one.process.pid is not None and one.process.is_alive():
            with suppress(ProcessLookupError):
                os.kill(one.process.pid, signal.SIGTERM)
    for one in running:
        one.process.join(GRACE)
        if one.process.is_alive():
            one.process.kill()
            one.process.join()
    running.clear()


def _full(job: Job, outcome: Outcome) -> CheckpointError:
    return CheckpointError(
        f"The comparison stopped at run {job.name}, because there is no space left on the disk",
        got=outcome.reason,
        fix="free space and repeat the command: finished runs are kept, and the others go on.",
    )
