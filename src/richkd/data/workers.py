"""Workers (processes or threads) that read batches ahead of time, in order."""

from __future__ import annotations

import math
import re
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Generic, TypeVar, cast

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info

from richkd.core.errors import WorkerError

# What PyTorch and the system say if shared memory is full or cannot be opened.
SHARED_MEMORY = re.compile(
    r"[Bb]us error|shared memory|/dev/shm|torch_\d+_|Too many open files|received \d+ items"
)
ENLARGE = "enlarge /dev/shm (for a container: --shm-size 8g) and the limit of open files (ulimit -n 65536)"

Request = TypeVar("Request")
Result = TypeVar("Result")
# Requests that are read ahead, for each worker.
AHEAD = 2


class Lazy(Sequence[Result]):
    """A sequence whose elements are computed when they are read; an epoch can have millions of views.

    Args:
        compute: returns the element at a position.
        length: number of elements.

    Example:
        >>> list(Lazy(lambda place: 10 * place, 3))
        [0, 10, 20]
    """

    def __init__(self, compute: Callable[[int], Result], length: int) -> None:
        self._compute, self._length = compute, length

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, place: Any) -> Any:
        if not 0 <= place < self._length:
            raise IndexError(place)
        return self._compute(place)


class _Calls(Dataset[Any]):
    def __init__(self, read: Callable[[Any], Any]) -> None:
        self.read = read

    def __getitem__(self, request: Any) -> Any:
        return self.read(request)


class _Requests(Sequence[Any]):
    """The requests of the next iteration. A loader keeps its sampler, so only the content is replaced."""

    def __init__(self) -> None:
        self.content: Sequence[Any] = ()

    def __len__(self) -> int:
        return len(self.content)

    def __getitem__(self, place: Any) -> Any:
        return self.content[place]


class Reader(Generic[Request, Result]):
    """Calls a function for each request, in workers, and returns the results in order.

    Args:
        read: the function. For processes, it and its results must be picklable; tensors are passed through
            shared memory.
        workers: number of workers; 0 calls the function in the main process.
        threads: use threads, which share memory, instead of processes.
        keep: keep the processes for the next iteration, which then starts at once.

    Example:
        >>> list(Reader(str.upper, workers=0).map(["a", "b"]))
        ['A', 'B']
    """

    def __init__(
        self, read: Callable[[Request], Result], workers: int, *, threads: bool = False, keep: bool = False
    ) -> None:
        self._read, self._requests = read, _Requests()
        self._workers = workers
        self._loader: DataLoader[Any] | None = None
        if workers and not threads:
            self._loader = DataLoader(
                _Calls(read),
                batch_size=None,
                sampler=self._requests,
                num_workers=workers,
                prefetch_factor=AHEAD,
                collate_fn=_unchanged,
                persistent_workers=keep,
                worker_init_fn=_ignore_interrupts,
            )

    def map(self, requests: Sequence[Request]) -> Iterator[Result]:
        """The results in the order of the requests; only one iteration may be active at a time.

        A single request is read in the main process, at any time.

        Raises:
            WorkerError: a process ended, or there is no shared memory for its results.
        """
        if not self._workers or len(requests) < 2:
            yield from map(self._read, requests)
        elif self._loader is not None:
            self._requests.content = requests
            try:
                yield from _iterator(self._loader)
            except (RuntimeError, OSError, EOFError) as error:
                raise_if_worker_ended(error)
                raise
            finally:
                # Requests often refer to the owner of this reader. The garbage collector frees such a cycle
                # by closing the queues of the loader first. Its processes are then not told to
                # end, and each is waited for 5 seconds.
                self._requests.content = ()
        else:
            yield from self._map_in_threads(requests)

    def _map_in_threads(self, requests: Sequence[Request]) -> Iterator[Result]:
        with ThreadPoolExecutor(self._workers) as pool:
            waiting: deque[Future[Result]] = deque()
            for request in requests:
                waiting.append(pool.submit(self._read, request))
                if len(waiting) > AHEAD * self._workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()


def empty_bytes(*shape: int) -> Tensor:
    """An uninitialized uint8 tensor; in a worker process it is in shared memory, so that it is not copied.

    Example:
        >>> empty_bytes(2, 3).shape
        torch.Size([2, 3])
    """
    if get_worker_info() is None:
        return torch.empty(shape, dtype=torch.uint8)
    storage = cast(Any, torch.UntypedStorage)._new_shared(math.prod(shape))
    return torch.empty(0, dtype=torch.uint8).set_(storage).view(shape)


def _ignore_interrupts(worker: int) -> None:
    # Ctrl-C reaches all processes of the terminal. The main process finishes its step, for which it may need
    # another batch, and then stops the workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _iterator(loader: DataLoader[Any]) -> Iterator[Any]:
    """Iterate over a loader without PyTorch's handler of signals.

    The handler raises an error in whatever statement the main thread executes when a process ends, even in
    the middle of an optimizer step. Without it, the loader finds out when it waits for a result, which is
    between two steps.
    """
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "SIGCHLD"):
        return iter(loader)
    handler = signal.getsignal(signal.SIGCHLD)
    results = iter(loader)
    signal.signal(signal.SIGCHLD, handler)
    return results


def raise_if_worker_ended(error: Exception) -> None:
    """Turn PyTorch's error about a process that ended into advice; other errors are left alone.

    Raises:
        WorkerError: a process was killed, or there is no shared memory.

    Example:
        >>> raise_if_worker_ended(RuntimeError("something else"))
        >>> try:
        ...     raise_if_worker_ended(RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed."))
        ... except WorkerError as raised:
        ...     print(raised.got)
        DataLoader worker (pid 7) is killed by signal: Killed.; the system kills processes if memory is full
    """
    # PyTorch does not always know the signal that ended a process; if it does, it may be in the cause.
    text = f"{error}\n{error.__cause__ or ''}"
    if SHARED_MEMORY.search(text):
        raise WorkerError(
            "The processes that read images need shared memory",
            got=text.splitlines()[0],
            fix=f"{ENLARGE}, or use --train.workers 0.",
        ) from error
    # A result is fetched from its process. If that was killed in between, there is no connection to it.
    disconnected = isinstance(error, ConnectionError | FileNotFoundError | EOFError)
    if text.startswith("DataLoader worker") or (disconnected and not text.startswith("Caught")):
        raise WorkerError(
            "The processes that read images must not end during a run",
            got=f"{text.splitlines()[0]}; the system kills processes if memory is full",
            fix="use fewer processes or none (--train.workers 0), smaller images (--data.size), more memory. "
            f"If a bus error was printed, {ENLARGE}.",
        ) from error


def _unchanged(result: Result) -> Result:
    return result
