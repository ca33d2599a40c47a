"""Start a run of several processes: join those that a launcher has started, or refuse a start that failed.

`torchrun` and ``accelerate launch`` start every process with the same command and tell them apart by
environment variables. Processes on GPUs exchange tensors by NCCL, all others by Gloo.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import re
from collections.abc import Iterator, Mapping
from datetime import timedelta

import torch
import torch.distributed as dist
from torch._C._distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from richkd.core.device import pick_device
from richkd.core.errors import ConfigError, ProcessError
from richkd.core.interrupt import Interrupted
from richkd.core.processes import answered, group, left_reason, rank, world

# What a launcher must tell each process.
REQUIRED = ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
# Variables by which MPI and Slurm tell how many processes they started.
OTHER_LAUNCHERS = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE")
# What PyTorch says if another process has ended or does not answer.
LOST = re.compile(
    r"[Gg]loo|NCCL|[Cc]onnection (closed|reset|refused|was)|Broken pipe|[Tt]imed out|[Tt]imeout|socket|"
    r"failed to (recv|send)|recvValue|sendBytes|TCPStore"
)
START = "torchrun --nproc_per_node {} -m richkd distill …"


def join(device: str, timeout: float) -> torch.device:
    """Join the processes of this run, and return the device of this one.

    Without a launcher nothing is joined. A second call does nothing.

    Args:
        device: setting ``train.device``.
        timeout: seconds that processes wait for each other in an exchange.

    Raises:
        ConfigError: no such device; or the environment is that of several processes, but not all that is
            needed to join them was told.

    Example:
        >>> join("cpu", timeout=60)
        device(type='cpu')
    """
    selected, count = pick_device(device), asked_for(os.environ)
    if count == 1:
        return selected
    local = int(os.environ["LOCAL_RANK"])
    if selected.type == "cuda":
        _refuse_few_gpus(int(os.environ.get("LOCAL_WORLD_SIZE", count)))
        selected = torch.device("cuda", local)
        torch.cuda.set_device(selected)
    if not dist.is_initialized():
        _initialize("cpu:gloo,cuda:nccl" if selected.type == "cuda" else "gloo", timeout)
    return selected


@contextlib.contextmanager
def together() -> Iterator[None]:
    """Context of work that several processes do together: an error of one ends the others with a message.

    A process that has an error leaves its reason for the others, whose exchange fails when it ends.

    Raises:
        ProcessError: another process has ended, or did not answer in time.

    Example:
        >>> with together():
        ...     pass
    """
    group.works += 1
    try:
        yield
    except RuntimeError as error:
        if world() == 1 or not LOST.search(str(error)):
            _leave_reason(error)
            raise
        raise _lost(error) from None
    except Exception as error:
        _leave_reason(error)
        raise


def _leave_reason(error: Exception) -> None:
    if world() > 1 and not isinstance(error, Interrupted):
        reason = str(error).strip().split("\n")[0]
        with contextlib.suppress(RuntimeError):
            group.store.set(f"reason {group.works}", f"process {rank()}: {type(error).__name__}: {reason}")


def _lost(error: RuntimeError) -> ProcessError:
    got = f"process {rank()} of {world()} lost them: {str(error).strip().splitlines()[0]}"
    # A process that was killed leaves no reason, and one that fails leaves it before it ends.
    group.lost = True
    got = answered(left_reason, "") or got
    return ProcessError(
        "All processes of a run must go on until its end",
        got=got,
        fix="read the messages of that process; after a kill, repeat the command with --resume. A process "
        "that does not answer within --train.process_timeout seconds is lost, too.",
    )


def asked_for(environment: Mapping[str, str]) -> int:
    """How many processes a launcher has started, from the environment.

    Raises:
        ConfigError: the launcher started one process where several were asked for, or it did not tell what
            is needed to join them.

    Example:
        >>> asked_for({})
        1
    """
    text = environment.get("WORLD_SIZE", "1")
    count = int(text) if text.isdigit() else 0
    others = [name for name in OTHER_LAUNCHERS if environment.get(name, "1") != "1"]
    missing = [name for name in REQUIRED if not environment.get(name)]
    if "WORLD_SIZE" not in environment and others:
        raise _refusal(f"{others[0]}={environment[others[0]]}, and no WORLD_SIZE", environment[others[0]])
    started_alone = environment.get("ACCELERATE_USE_CPU", "").lower() in ("1", "true", "yes")
    if "WORLD_SIZE" not in environment and started_alone and environment.get("MASTER_ADDR"):
        raise _refusal("`accelerate launch` was to start several processes on the CPU, and started one")
    if count < 1 or (count > 1 and missing):
        lacking = f", and no {', '.join(missing)}" if missing else ""
        raise _refusal(f"WORLD_SIZE={text}{lacking}", text)
    ranks = [environment.get("RANK", "0"), environment.get("LOCAL_RANK", "0")]
    if count > 1 and not all(rank.isdigit() and int(rank) < count for rank in ranks):
        raise _refusal(f"WORLD_SIZE={text} with RANK={ranks[0]} and LOCAL_RANK={ranks[1]}", text)
    return count


def _refusal(got: str, count: str = "2") -> ConfigError:
    count = count if count.isdigit() and int(count) > 1 else "2"
    return ConfigError(
        "A run of several processes must be started by a launcher that joins them",
        got=got,
        fix=f"start it with {START.format(count)}; for a single process, unset WORLD_SIZE.",
    )


def _refuse_few_gpus(processes: int) -> None:
    if processes > torch.cuda.device_count():
        raise ConfigError(
            "Every process must have a GPU of its own",
            got=f"{processes} processes, {torch.cuda.device_count()} GPUs",
            fix=f"start {torch.cuda.device_count()} processes, or add --device cpu.",
        )


def _initialize(backend: str, timeout: float) -> None:
    wait = timedelta(seconds=timeout)
    store, rank, world = next(rendezvous("env://", timeout=wait))
    dist.init_process_group(backend, store=store, rank=rank, world_size=world, timeout=wait)
    group.store = PrefixStore("richkd", store)
    atexit.register(_leave)


def _leave() -> None:
    # With a process that hangs, this would wait for it.
    if not group.lost:
        with contextlib.suppress(Exception):
            dist.destroy_process_group()
