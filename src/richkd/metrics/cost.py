"""Measure the cost of a network on this machine: parameters, FLOPs, latency and memory."""

from __future__ import annotations

import time
import weakref
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from richkd.metrics.checks import Figures
from richkd.models.build import Network
from richkd.models.probe import unchanged

BATCHES = (1, 64)
ROUNDS, WARMUP = 15, 3
MEGABYTE = 1e6


@dataclass(frozen=True)
class Cost(Figures):
    """Cost of a network in evaluation mode and float32, at its own resolution; made by `cost_of`.

    Attributes:
        parameters: number of parameters.
        flops: floating-point operations for one image; a multiply-add counts as two.
        megabytes: size of the weights as a safetensors file, in MB (10⁶ bytes).
        peak_megabytes: peak memory of the tensors (weights, input, activations) for a batch of 64, in MB.
        milliseconds: median time of a forward pass in ms, by batch size.
        threads: number of CPU threads that PyTorch used.
        device: the device of the measurement.
    """

    parameters: int
    flops: int
    megabytes: float
    peak_megabytes: float
    milliseconds: dict[int, float]
    threads: int
    device: str


def cost_of(network: Network, device: torch.device) -> Cost:
    """Measure the cost of a network on a device.

    The network is moved to the device and put into evaluation mode. Other programs on the same device make
    the times longer.

    Example:
        >>> from richkd.config.schema import ModelConfig
        >>> from richkd.models.build import build_network
        >>> network = build_network(ModelConfig(name="cifar_resnet8"), 10, role="student", default_size=8)
        >>> cost = cost_of(network, torch.device("cpu"))
        >>> cost.parameters, sorted(cost.milliseconds)
        (78042, [1, 64])
    """
    network = network.to(device).eval()
    state = network.model.state_dict().items()
    # Copies, because safetensors refuses tensors that share their memory.
    weights = {name: tensor.cpu().clone(memory_format=torch.contiguous_format) for name, tensor in state}
    return Cost(
        network.parameters_count,
        flops(network),
        len(save(weights)) / MEGABYTE,
        peak_bytes(network, BATCHES[-1], device) / MEGABYTE,
        {batch: 1000 * forward_seconds(network, batch, device) for batch in BATCHES},
        torch.get_num_threads(),
        str(device),
    )


def flops(network: Network) -> int:
    """Floating-point operations of a forward pass for one image; a multiply-add counts as two.

    Example:
        >>> from richkd.config.schema import ModelConfig
        >>> from richkd.models.build import build_network
        >>> network = build_network(ModelConfig(name="cifar_resnet8"), 10, role="student", default_size=8)
        >>> flops(network)
        1563904
    """
    counter = FlopCounterMode(display=False)
    pixels = torch.zeros(1, 3, network.size, network.size, device=next(network.parameters()).device)
    # Fused kernels of attention are not counted on every device; the products that they stand for are.
    with unchanged(network), torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:
        network(pixels)
    return int(counter.get_total_flops())


def peak_bytes(network: Network, batch: int, device: torch.device) -> int:
    """Peak number of bytes of all live tensors during a forward pass over ``batch`` images.

    Includes weights, input and intermediate results. Excludes the workspace that an operation uses
    internally.

    Example:
        >>> from richkd.config.schema import ModelConfig
        >>> from richkd.models.build import build_network
        >>> network = build_network(ModelConfig(name="cifar_resnet8"), 10, role="student", default_size=8)
        >>> one, four = (peak_bytes(network, batch, torch.device("cpu")) for batch in (1, 4))
        >>> 4 * network.parameters_count < one < four  # a float32 weight has 4 bytes
        True
    """
    pixels = torch.zeros(batch, 3, network.size, network.size, device=device)
    constant = [tensor.nbytes for tensor in (*network.parameters(), *network.buffers(), pixels)]
    meter = _LiveBytes()
    with torch.no_grad(), meter:
        network(pixels)
    return sum(constant) + meter.peak


class _LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of each storage from the operation that allocates it until it is freed."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.alive = self.peak = 0
        self._known: set[int] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        inputs = {t.untyped_storage()._cdata for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor)}
        for tensor in tree_leaves(out):
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                # A view or an in-place result allocates no new storage.
                if storage._cdata not in self._known | inputs:
                    self._add(tensor, storage.nbytes(), storage._cdata)
        return out

    def _add(self, tensor: Tensor, size: int, key: int) -> None:
        self.alive += size
        self.peak = max(self.peak, self.alive)
        self._known.add(key)
        weakref.finalize(tensor, self._release, size, key)

    def _release(self, size: int, key: int) -> None:
        self.alive -= size
        self._known.discard(key)


def forward_seconds(network: Network, batch: int, device: torch.device) -> float:
    """Median time in seconds of a forward pass over ``batch`` images.

    Runs `WARMUP` untimed passes, then `ROUNDS` timed ones, on random images in channels-last layout.

    Example:
        >>> from richkd.config.schema import ModelConfig
        >>> from richkd.models.build import build_network
        >>> network = build_network(ModelConfig(name="cifar_resnet8"), 10, role="student", default_size=8)
        >>> forward_seconds(network, batch=1, device=torch.device("cpu")) > 0
        True
    """
    pixels = torch.randn(batch, 3, network.size, network.size, device=device)
    pixels = pixels.contiguous(memory_format=torch.channels_last)
    times = []
    with torch.inference_mode():
        for number in range(WARMUP + ROUNDS):
            start = time.perf_counter()
            network(pixels)
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            if number >= WARMUP:
                times.append(time.perf_counter() - start)
    return median(times)
