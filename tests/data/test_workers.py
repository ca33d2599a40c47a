"""Workers return what the function returns, in order, in processes and in threads."""

from __future__ import annotations

import os
import signal
import threading

import pytest
import torch

from richkd.data.workers import Reader


def square(number: int) -> torch.Tensor:
    return torch.tensor(number * number)


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
