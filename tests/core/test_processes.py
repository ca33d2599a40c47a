"""What processes tell each other, with threads in the place of processes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from richkd.core import gather, processes
from richkd.core.errors import DataError
from richkd.core.gather import gathered
from richkd.core.processes import agreed, first_to_report, gather_agreed, gather_rows, on_first, share_of
from tests.models.test_joint_norm import Exchange


class Group(Exchange):
    """Threads that exchange objects, and have a store."""

    def __init__(self, count: int) -> None:
        super().__init__(count)
        self.store: dict[str, Any] = {}

    def all_gather_object(self, received: list[Any], value: Any) -> None:
        self.brought[self.rank] = value
        self.barrier.wait(60)
        received[:] = list(self.brought)
        self.barrier.wait(60)

    def set(self, key: str, value: Any) -> None:
        self.store[key] = value

    def get(self, key: str) -> Any:
        return self.store[key]

    def check(self, keys: list[str]) -> bool:
        return all(key in self.store for key in keys)

    def add(self, key: str, number: int) -> int:
        self.store[key] = self.store.get(key, 0) + number
        return int(self.store[key])


@pytest.fixture
def three(monkeypatch: pytest.MonkeyPatch) -> Group:
    group: Any = Group(3)
    monkeypatch.setattr(processes, "dist", group)
    monkeypatch.setattr(processes, "world", lambda: 3)
    monkeypatch.setattr(processes, "rank", lambda: group.rank)
    monkeypatch.setattr(gather, "rank", lambda: group.rank)
    monkeypatch.setattr(processes.group, "store", group)
    return group


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.bool, torch.int64])
@pytest.mark.parametrize("shape", [(), (4,), (2, 3, 2)])
@pytest.mark.parametrize("sizes", [[2, 1, 3], [0, 2, 0], [0, 0, 5]])
def test_rows_of_all_processes_come_in_order(
    dtype: torch.dtype, shape: tuple[int, ...], sizes: list[int], three: Group
) -> None:
    whole = (10 * torch.randn(sum(sizes), *shape)).to(dtype)
    parts = torch.split(whole, sizes)

    def work(rank: int) -> Tensor:
        # The row of a stand-in is ignored.
        part = parts[rank] if sizes[rank] else torch.ones(1, *shape).to(dtype)
        return gather_rows(part, sizes)

    for result in three.run(work):
        assert result.dtype == dtype
        assert torch.equal(result, whole)


def test_gradients_are_those_of_a_loss_of_all_rows(three: Group) -> None:
    sizes = [2, 0, 3]
    whole = torch.randn(5, 2, dtype=torch.float64)
    slope = torch.randn(5, 5, dtype=torch.float64)
    weight = torch.randn(2, 2, dtype=torch.float64)

    def loss(rows: Tensor, w: Tensor) -> Tensor:
        return (slope * ((rows @ w) @ rows.T).square()).sum()

    one, one_weight = whole.clone().requires_grad_(), weight.clone().requires_grad_()
    loss(one, one_weight).backward()
    parts = torch.split(whole, sizes)

    def work(rank: int) -> Any:
        part = (parts[rank] if sizes[rank] else torch.ones(1, 2, dtype=torch.float64)).clone()
        part.requires_grad_()
        w = weight.clone().requires_grad_()
        (loss(gathered(part, sizes), w) / 3).backward()
        return part.grad, w.grad

    results = three.run(work)
    assert one.grad is not None
    joined = torch.cat([grad[:size] for (grad, _), size in zip(results, sizes, strict=True)])
    assert torch.allclose(joined, one.grad, rtol=1e-12)
    assert not results[1][0].any()
    assert torch.allclose(sum(grad for _, grad in results), one_weight.grad, rtol=1e-12)


def caught(call: Callable[[], Any]) -> str:
    try:
        return str(call())
    except DataError as error:
        return f"error {error.rule}"


def test_an_error_of_one_process_is_that_of_all(three: Group) -> None:
    def work(rank: int) -> list[str]:
        def compute() -> int:
            if rank == 1:
                raise DataError("Image 1.png must be readable")
            return rank

        return [caught(lambda: agreed(compute)), caught(lambda: gather_agreed(compute))]

    assert three.run(work) == [["error Image 1.png must be readable"] * 2] * 3


def test_the_first_process_computes_for_all(three: Group) -> None:
    computed = []

    def fails() -> int:
        raise DataError("There is no data")

    def work(rank: int) -> list[str]:
        def compute() -> int:
            computed.append(rank)
            return 7

        return [caught(lambda: on_first(compute)), caught(lambda: on_first(fails))]

    # Calls of processes are counted in each of them; threads share the count.
    def alone(rank: int) -> list[str]:
        processes.group.shared = 0
        three.barrier.wait(60)
        return work(rank) if rank == 0 else []

    assert three.run(alone)[0] == ["7", "error There is no data"]
    assert computed == [0]


def test_a_message_is_said_once(three: Group) -> None:
    assert sorted(three.run(lambda rank: first_to_report("There is no data"))) == [False, False, True]


@pytest.mark.parametrize("count", [0, 1, 2, 7, 100])
def test_shares_of_rows_are_all_rows(count: int, three: Group) -> None:
    rows = list(range(count))
    results = three.run(lambda rank: share_of(count))
    assert [row for part, _ in results for row in rows[part]] == rows
    assert [len(rows[part]) for part, _ in results] == results[0][1]
