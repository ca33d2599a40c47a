"""Workers (processes or threads) that read batches ahead of time, in order."""

from __future__ import annotations

import signal
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Generic, TypeVar

from torch.utils.data import DataLoader, Dataset

Request = TypeVar("Request")
Result = TypeVar("Result")
# Requests that are read ahead, for each worker.
AHEAD = 2


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
        self._workers, self._threads = workers, threads
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
        """
        if not self._workers or len(requests) < 2:
            yield from map(self._read, requests)
        elif self._loader is not None:
            self._requests.content = requests
            yield from self._loader
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


def _ignore_interrupts(worker: int) -> None:
    # Ctrl-C reaches all processes of the terminal. The main process finishes its step, for which it may need
    # another batch, and then stops the workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _unchanged(result: Result) -> Result:
    return result
