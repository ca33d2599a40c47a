"""What a network costs on this machine: size, arithmetic, time, memory."""

from __future__ import annotations

import time
from dataclasses import dataclass
from statistics import median

import torch
from safetensors.torch import save
from torch.utils.flop_counter import FlopCounterMode

from richkd.evaluate.confidence import Figures
from richkd.models.build import Network

BATCHES = (1, 64)
ROUNDS, WARMUP = 15, 3
MEGABYTE = 1e6


@dataclass(frozen=True)
class Cost(Figures):
    """Cost of one network in evaluation mode and float32, at its own resolution.

    ``flops`` are of one image (a multiply-add counts as two); ``milliseconds`` are medians of a whole batch,
    by its number of images; ``megabytes`` is the size of its weights as a file.
    """

    parameters: int
    flops: int
    megabytes: float
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
