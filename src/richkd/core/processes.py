"""The processes of a run that was started with several: who this one is, and what they tell each other.

Every process calls the same functions in the same order. With a single process none of them communicates.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import pickle
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor

from richkd.core.errors import RichKDError

T = TypeVar("T")
# Seconds between two looks at a result that another process is computing.
LOOK = 0.02
# Seconds for an answer of the store when a process has been lost.
ANSWER = 5.0
# Types that all backends can send. Others are sent as bytes.
SENT = (torch.float32, torch.float64, torch.int32, torch.int64, torch.uint8)


@dataclass
class _Group:
    """The processes that `richkd.core.launch` has joined, and how much they have done together."""

    store: Any = None
    shared: int = 0
    works: int = 0
    lost: bool = False


group = _Group()


def world() -> int:
    """Number of processes of this run.

    Example:
        >>> world()
        1
    """
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Number of this process, from 0.

    Example:
        >>> rank()
        0
    """
    return dist.get_rank() if world() > 1 else 0


def first_of_node() -> bool:
    """Whether this is the first process of its machine.

    Example:
        >>> first_of_node()
        True
    """
    return world() == 1 or int(os.environ.get("LOCAL_RANK", "0")) == 0


def on_first(compute: Callable[[], T]) -> T:
    """A result that the first process computes, in all processes.

    The others wait for as long as it takes. An error that the user can fix is raised in all of them.

    Args:
        compute: the function. Its result must be picklable.

    Example:
        >>> on_first(lambda: 7)
        7
    """
    return _shared(compute, "all", first=rank() == 0)


def on_first_of_node(compute: Callable[[], T]) -> T:
    """A result that the first process of each machine computes, in all processes of the machine.

    Example:
        >>> on_first_of_node(lambda: 7)
        7
    """
    # Ranks are dense on a machine, so this is the first rank of the machine.
    node = rank() - int(os.environ.get("LOCAL_RANK", "0")) if world() > 1 else 0
    return _shared(compute, f"node {node}", first=first_of_node())


def _shared(compute: Callable[[], T], among: str, *, first: bool) -> T:
    if world() == 1:
        return compute()
    group.shared += 1
    key = f"{group.shared}/{among}"
    if first:
        try:
            result: Any = compute()
        except RichKDError as error:
            group.store.set(key, pickle.dumps((None, error)))
            raise
        group.store.set(key, pickle.dumps((result, None)))
        return cast(T, result)
    while not group.store.check([key]):
        if left_reason():
            raise RuntimeError("Connection closed by a process that has an error")
        time.sleep(LOOK)
    received, failed = pickle.loads(group.store.get(key))
    if failed is not None:
        raise failed
    return cast(T, received)


def left_reason() -> str:
    """Why another process ended the present work, if it said so.

    Example:
        >>> left_reason()
        ''
    """
    key = f"reason {group.works}"
    if group.store is None or not group.store.check([key]):
        return ""
    text: bytes = group.store.get(key)
    return text.decode()


def agreed(compute: Callable[[], T]) -> T:
    """The result of each process, unless one of them has an error that the user can fix: then all raise it.

    Example:
        >>> agreed(lambda: 7)
        7
    """
    if world() == 1:
        return compute()
    result, failed = _attempt(compute)
    raise_first(gather_objects(failed))
    return cast(T, result)


def gather_agreed(compute: Callable[[], T]) -> list[T]:
    """The results of all processes in their order; if one of them has an error, all raise it as in `agreed`.

    Example:
        >>> gather_agreed(lambda: 7)
        [7]
    """
    if world() == 1:
        return [compute()]
    attempts = gather_objects(_attempt(compute))
    raise_first([failed for _, failed in attempts])
    return [cast(T, result) for result, _ in attempts]


def _attempt(compute: Callable[[], T]) -> tuple[T | None, RichKDError | None]:
    try:
        return compute(), None
    except RichKDError as error:
        return None, error


def raise_first(errors: Sequence[RichKDError | None]) -> None:
    """Raise the first error of all processes, if there is one.

    Example:
        >>> raise_first([None, None])
    """
    for error in errors:
        if error is not None:
            raise error


def sent(content: T | None) -> T:
    """The content that the first process has, in all processes; it can be large.

    Example:
        >>> sent({"step": 7})
        {'step': 7}
    """
    contents = [content]
    if world() > 1:
        dist.broadcast_object_list(contents, src=0)
    return cast(T, contents[0])


def meet() -> None:
    """Wait until all processes are here.

    Example:
        >>> meet()
    """
    if world() > 1:
        dist.all_reduce(torch.zeros(1))


def gather_objects(item: T) -> list[T]:
    """The objects of all processes, in their order.

    Example:
        >>> gather_objects("here")
        ['here']
    """
    if world() == 1:
        return [item]
    gathered: list[Any] = [None] * world()
    dist.all_gather_object(gathered, item)
    return gathered


def gather_rows(rows_BX: Tensor, sizes: Sequence[int]) -> Tensor:
    """The rows of all processes, in their order, without gradient.

    Args:
        rows_BX: the rows of this process; rows beyond its size are ignored.
        sizes: number of rows of each process.

    Example:
        >>> gather_rows(torch.tensor([[1.0], [2.0]]), [2]).tolist()
        [[1.0], [2.0]]
    """
    if len(sizes) == 1:
        return rows_BX.detach()
    local = rows_BX.detach()[: sizes[rank()]]
    padded = local.new_zeros((max(sizes), *local.shape[1:]))
    padded[: len(local)] = local
    sent_as = padded.dtype if padded.dtype in SENT else torch.uint8
    flat = padded.view(-1).view(sent_as)
    received = [torch.empty_like(flat) for _ in sizes]
    dist.all_gather(received, flat)
    wholes = [rows.view(local.dtype).view(padded.shape) for rows in received]
    return torch.cat([rows[:size] for rows, size in zip(wholes, sizes, strict=True)])


def gather_in_place(rows_NX: Tensor, sizes: Sequence[int]) -> None:
    """Give all processes the rows of each, without a copy: process r has filled ``sizes[r]`` rows in order.

    Args:
        rows_NX: the tensor of all rows, on the CPU.
        sizes: number of rows of each process.

    Example:
        >>> gather_in_place(torch.zeros(2, 3), [2])
    """
    if world() == 1:
        return
    for source, rows in enumerate(torch.split(rows_NX, list(sizes))):
        send_from(source, rows)


def send_from(source: int, content: Tensor) -> None:
    """Overwrite a tensor with that of one process.

    Example:
        >>> send_from(0, torch.zeros(3))
    """
    if world() > 1 and content.numel():
        dist.broadcast(content, src=source)


def share_of(count: int) -> tuple[slice, list[int]]:
    """This process's part of ``count`` rows, and the number of rows of each process.

    Example:
        >>> share_of(5)
        (slice(0, 5, None), [5])
    """
    ends = [count * number // world() for number in range(world() + 1)]
    sizes = [end - start for start, end in itertools.pairwise(ends)]
    return slice(ends[rank()], ends[rank() + 1]), sizes


def first_to_report(text: str) -> bool:
    """Whether no other process has reported this; so a message that all processes have is printed once.

    Example:
        >>> first_to_report("There is no data")
        True
    """
    if world() == 1 or group.store is None:
        return True
    key = f"said/{hashlib.sha256(text.encode()).hexdigest()}"
    return int(answered(lambda: group.store.add(key, 1), 1)) == 1


def answered(ask: Callable[[], T], otherwise: T) -> T:
    """The answer of the store, or another value if the process that keeps the store has ended or hangs.

    Example:
        >>> answered(lambda: 7, 0)
        7
    """
    answers: list[T] = []

    def keep() -> None:
        with contextlib.suppress(RuntimeError):
            answers.append(ask())

    # The store's own timeout does not end a request that a stopped process has received.
    thread = threading.Thread(target=keep, daemon=True)
    thread.start()
    thread.join(ANSWER)
    return answers[0] if answers else otherwise
