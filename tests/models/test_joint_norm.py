"""Batch normalization of shares equals that of the whole batch, in values, statistics and gradients."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from richkd.data.shares import cut, shares_of
from richkd.models import joint_norm
from richkd.models.joint_norm import joint_batch_norm

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


class Exchange:
    """Threads in the place of processes: sums and gathers of what all of them bring."""

    def __init__(self, count: int) -> None:
        self.count, self.barrier = count, threading.Barrier(count)
        self.brought: list[Any] = [None] * count
        self.of_thread: dict[int, int] = {}

    @property
    def rank(self) -> int:
        return self.of_thread[threading.get_ident()]

    def swap(self, tensor: Tensor) -> list[Tensor]:
        self.brought[self.rank] = tensor.clone()
        self.barrier.wait(60)
        everything = list(self.brought)
        self.barrier.wait(60)
        return everything

    def all_gather(self, received: list[Tensor], local: Tensor) -> None:
        for place, tensor in zip(received, self.swap(local), strict=True):
            place.copy_(tensor)

    def all_reduce(self, local: Tensor) -> None:
        local.copy_(torch.stack(self.swap(local)).sum(dim=0))

    def run(self, work: Callable[[int], Any]) -> list[Any]:
        results: list[Any] = [None] * self.count

        def one(rank: int) -> None:
            self.of_thread[threading.get_ident()] = rank
            results[rank] = work(rank)

        threads = [threading.Thread(target=one, args=(rank,)) for rank in range(self.count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(120)
        return results


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(("images", "world"), [(8, 2), (7, 3), (2, 3), (13, 4)])
@pytest.mark.parametrize("affine", [True, False])
def test_it_is_the_norm_of_the_whole_batch(
    images: int, world: int, dtype: torch.dtype, affine: bool, device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator = torch.Generator().manual_seed(images)
    # A large mean, where a variance from squares would lose its digits.
    x = (100 + torch.randn(images, 3, 2, 5, generator=generator, dtype=dtype)).to(device)
    slope = torch.randn(images, 3, 2, 5, generator=generator, dtype=dtype).to(device)
    weights = [torch.randn(3, generator=generator, dtype=dtype).to(device) for _ in range(2 * affine)]
    whole = expected(x, slope, weights)
    exchange = Exchange(world)
    monkeypatch.setattr(joint_norm, "dist", exchange)
    monkeypatch.setattr(joint_norm, "world", lambda: world)

    def work(rank: int) -> Any:
        (share,) = shares_of(torch.arange(images), 1, rank, world)
        rows = x[share.index_B].clone().requires_grad_()
        parameters = [w.clone().requires_grad_() for w in weights] or [None, None]
        mean, var = torch.zeros(3, dtype=dtype, device=device), torch.ones(3, dtype=dtype, device=device)
        result = joint_batch_norm(rows, mean, var, *parameters, 0.1, 1e-5, share)
        (share.count / share.computed * (result * slope[share.index_B]).sum()).backward()
        grads = [p.grad for p in parameters if p is not None]
        count = share.count
        assert rows.grad is not None
        return result[:count], mean, var, rows.grad[:count], grads, rows.grad[count:]

    parts = exchange.run(work)
    tight = {"rtol": 1e-10, "atol": 1e-12} if dtype == torch.float64 else {"rtol": 2e-4, "atol": 2e-4}
    assert torch.allclose(torch.cat([part[0] for part in parts]), whole[0], **tight)
    for part in parts:
        assert torch.equal(part[1], parts[0][1])
        assert torch.equal(part[2], parts[0][2])
        assert torch.allclose(part[1], whole[1], **tight)
        assert torch.allclose(part[2], whole[2], **tight)
        # Nothing reaches the image of a stand-in.
        assert not part[5].any()
    assert torch.allclose(torch.cat([part[3] for part in parts]), whole[3], **tight)
    for number, gradient in enumerate(whole[4]):
        assert torch.allclose(sum(part[4][number] for part in parts), gradient, **tight)


def expected(x: Tensor, slope: Tensor, weights: list[Tensor]) -> Any:
    whole = x.clone().requires_grad_()
    parameters = [w.clone().requires_grad_() for w in weights] or [None, None]
    mean, var = torch.zeros(3, dtype=x.dtype, device=x.device), torch.ones(3, dtype=x.dtype, device=x.device)
    result = F.batch_norm(whole, mean, var, *parameters, True, 0.1, 1e-5)
    (result * slope).sum().backward()
    return result, mean, var, whole.grad, [p.grad for p in parameters if p is not None]


def test_one_value_per_channel_of_all_processes_is_refused_as_by_pytorch() -> None:
    (share,) = shares_of(torch.arange(1), 1, 1, 2)
    assert cut(1, 2) == [0, 1]
    with pytest.raises(ValueError, match="Expected more than 1 value per channel"):
        joint_batch_norm(torch.zeros(1, 3), None, None, None, None, 0.1, 1e-5, share)
