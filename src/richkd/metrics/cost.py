"""What a network costs on this machine: size, arithmetic, time, memory."""

from __future__ import annotations

import time
import weakref
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from richkd.metrics.checks import Figures
from richkd.models.build import Network

BATCHES = (1, 64)
ROUNDS, WARMUP = 15, 3
MEGABYTE = 1e6


@dataclass(frozen=True)
class Cost(Figures):
    """Cost of one network in evaluation mode and float32, at its own resolution.

    ``flops`` are of one image (a multiply-add counts as two); ``milliseconds`` are medians of a whole batch,
    by its number of images; ``megabytes`` is the size of its weights as a file, ``peak_megabytes`` the most
    that weights and whatever is computed from 64 images hold at one time.
    """

    parameters: int
    flops: int
    megabytes: float
    peak_megabytes: float
    milliseconds: dict[int, float]
    threads: int
    device: str


def cost_of(network: Network, device: torch.device) -> Cost:
    """Measure a network where it will run; anything else that runs there makes times longer."""
    network = network.to(device).eval()
    state = network.model.state_dict().items()
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in state}
    return Cost(
        network.parameters_count,
        flops(network),
        len(save(weights)) / MEGABYTE,
        peak_bytes(network, BATCHES[-1], device) / MEGABYTE,
        {batch: 1000 * seconds_of(network, batch, device) for batch in BATCHES},
        torch.get_num_threads(),
        str(device),
    )


def flops(network: Network) -> int:
    """Floating-point operations of one image's forward pass (a multiply-add counts as two)."""
    counter = FlopCounterMode(display=False)
    pixels = torch.zeros(1, 3, network.size, network.size, device=next(network.parameters()).device)
    training = network.training
    network.eval()
    with torch.no_grad(), counter:
        network(pixels)
    network.train(training)
    return int(counter.get_total_flops())


def peak_bytes(network: Network, batch: int, device: torch.device) -> int:
    """The most bytes of tensors that are alive at one time in a forward pass over ``batch`` images.

    Weights, input and all intermediate results count; scratch space inside of single operations does not.
    """
    pixels = torch.zeros(batch, 3, network.size, network.size, device=device)
    held = [tensor.nbytes for tensor in (*network.parameters(), *network.buffers(), pixels)]
    meter = _LiveBytes()
    with torch.no_grad(), meter:
        network(pixels)
    return sum(held) + meter.peak


class _LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of storages from the operation that makes them until nobody holds them any more."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.alive = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        given = {t.untyped_storage()._cdata for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)}
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                # A view, or a result that was written in place, holds nothing new.
                if storage._cdata not in self._known | given:
                    self._hold(tensor, storage.nbytes(), storage._cdata)
        return out

    def _hold(self, tensor: Tensor, size: int, key: int) -> None:
        self.alive += size
        self.peak = max(self.peak, self.alive)
        self._known.add(key)
        weakref.finalize(tensor, self._release, size, key)

    def _release(self, size: int, key: int) -> None:
        self.alive -= size
        self._known.discard(key)


def seconds_of(network: Network, batch: int, device: torch.device) -> float:
    """Median seconds of a forward pass over ``batch`` images."""
    pixels = torch.randn(batch, 3, network.size, network.size, device=device)
    pixels = pixels.contiguous(memory_format=torch.channels_last)
    taken = []
    with torch.inference_mode():
        for number in range(WARMUP + ROUNDS):
            began = time.perf_counter()
            network(pixels)
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            if number >= WARMUP:
                taken.append(time.perf_counter() - began)
    return median(taken)
