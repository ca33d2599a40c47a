"""Workers return what the function returns, in order, in processes and in threads."""

from __future__ import annotations

import gc
import os
import signal
import threading
import time

import pytest
import torch

from richkd.core.errors import WorkerError
from richkd.data.workers import Lazy, Reader, raise_if_worker_ended
from tests.fixtures import refusal

SIGNALS: list[signal.Signals] = []


def square(number: int) -> torch.Tensor:
    return torch.tensor(number * number)


def ends(number: int) -> int:
    """As if the system killed the process that reads."""
    if number == 3:
        os.kill(os.getpid(), SIGNALS.pop())
    return number


def fails(number: int) -> int:
    raise RuntimeError(f"request {number}")


def process(number: int) -> int:
    return os.getpid()


def interrupt(number: int) -> int:
    """What a worker does when Ctrl-C is pressed."""
    os.kill(os.getpid(), signal.SIGINT)
    return number


def thread(number: int) -> int:
    return threading.get_ident()


@pytest.mark.parametrize(("workers", "threads"), [(0, False), (2, False), (2, True)])
def test_results_are_in_the_order_of_the_requests(workers: int, threads: bool) -> None:
    reader = Reader(square, workers, threads=threads, keep=True)
    for count in (0, 1, 9, 4):
        assert [int(value) for value in reader.map(range(count))] == [n * n for n in range(count)]


@pytest.mark.parametrize("threads", [False, True])
def test_an_iteration_that_is_left_early_does_not_spoil_the_next(threads: bool) -> None:
    reader = Reader(square, 2, threads=threads, keep=True)
    results = reader.map(range(20))
    assert int(next(results)) == 0
    del results
    assert [int(value) for value in reader.map(range(5))] == [0, 1, 4, 9, 16]


def test_a_single_request_is_read_in_the_main_process_during_an_iteration() -> None:
    reader = Reader(square, 2, keep=True)
    results = reader.map(range(6))
    first = int(next(results))
    assert [int(value) for value in reader.map([7])] == [49]
    assert [first, *map(int, results)] == [0, 1, 4, 9, 16, 25]
    assert list(Reader(process, 2).map([1])) == [os.getpid()]


def test_processes_are_kept_between_iterations() -> None:
    reader = Reader(process, 2, keep=True)
    first, second = set(reader.map(range(8))), set(reader.map(range(8)))
    assert first == second
    assert len(first) == 2
    assert os.getpid() not in first


def test_threads_share_the_process() -> None:
    assert set(Reader(process, 2, threads=True).map(range(8))) == {os.getpid()}
    assert threading.get_ident() not in set(Reader(thread, 2, threads=True).map(range(8)))


def test_workers_survive_an_interrupt_that_the_main_process_handles() -> None:
    assert list(Reader(interrupt, 2).map(range(5))) == [0, 1, 2, 3, 4]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "advice"), [(signal.SIGKILL, "--train.workers 0"), (signal.SIGBUS, "/dev/shm")]
)
def test_a_process_that_is_killed_ends_in_advice(
    number: signal.Signals, advice: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(globals(), "SIGNALS", [number])
    error = refusal(list, Reader(ends, 2, keep=True).map(range(8)))
    assert isinstance(error, WorkerError)
    assert "DataLoader worker" in str(error.got)
    assert advice in str(error.fix)


@pytest.mark.parametrize(
    "text",
    [
        "DataLoader worker (pid 7) is killed by signal: Bus error. It may be out of it.",
        "unable to open shared memory object </torch_7_1> in read-write mode: Too many open files (24)",
        "unable to mmap 4 bytes from file </torch_7_1_2>: Cannot allocate memory (12)",
        "unable to write to file </torch_7_1_2>: No space left on device (28)",
        "received 0 items of ancdata",
    ],
)
def test_a_lack_of_shared_memory_is_named(text: str) -> None:
    error = refusal(raise_if_worker_ended, RuntimeError(text))
    assert "/dev/shm" in str(error.fix)
    assert error.got == text


@pytest.mark.parametrize(
    "error", [ConnectionResetError(104, "reset"), FileNotFoundError(2, "no socket"), EOFError()]
)
def test_a_process_that_is_killed_before_its_result_is_fetched_ends_in_advice(error: Exception) -> None:
    with pytest.raises(WorkerError, match="must not end"):
        raise_if_worker_ended(error)
    raise_if_worker_ended(FileNotFoundError("Caught FileNotFoundError in DataLoader worker process 0."))


def test_errors_of_the_function_are_left_alone() -> None:
    with pytest.raises(RuntimeError, match=r"request \d"):
        list(Reader(fails, 2).map(range(4)))


@pytest.mark.slow
def test_processes_end_at_once_also_if_their_requests_refer_to_the_reader() -> None:
    class Owner:
        def __init__(self) -> None:
            self.reader = Reader(str.upper, workers=2, keep=True)

        def read(self) -> list[str]:
            return list(self.reader.map(Lazy(lambda place: self.text(place), 4)))

        def text(self, place: int) -> str:
            return "abcd"[place]

    gc.collect()  # what other tests left
    owner = Owner()
    assert owner.read() == ["A", "B", "C", "D"]
    began = time.monotonic()
    del owner
    gc.collect()
    assert time.monotonic() - began < 4, "the processes were waited for in vain"
