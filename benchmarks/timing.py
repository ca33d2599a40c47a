"""Interleaved timing: contenders take turns, so that a machine that slows down slows all of them."""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import torch


@dataclass
class Timing:
    """Seconds of wall clock and of processor time of each call."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    def summary(self) -> dict[str, float]:
        return {"min": min(self.wall), "median": median(self.wall), "cpu": median(self.cpu)}


def interleaved(
    contenders: Mapping[str, Callable[[], object]], *, rounds: int, warmup: int = 2
) -> dict[str, Timing]:
    """Call every contender once a round, after ``warmup`` calls of each that do not count."""
    timings = {name: Timing() for name in contenders}
    for call in contenders.values():
        for _ in range(warmup):
            call()
    for _ in range(rounds):
        for name, call in contenders.items():
            wall, cpu = time.perf_counter(), time.process_time()
            call()
            timings[name].wall.append(time.perf_counter() - wall)
            timings[name].cpu.append(time.process_time() - cpu)
    return timings


def medians(contenders: Mapping[str, Callable[[], object]], rounds: int, warmup: int = 2) -> dict[str, float]:
    """Median seconds of each contender, which take turns."""
    timings = interleaved(contenders, rounds=rounds, warmup=warmup)
    return {name: timing.summary()["median"] for name, timing in timings.items()}


def ceilings() -> dict[str, float]:
    """What the machine can do at best: products in GFLOP/s, copies in GB/s (read and written)."""
    a, b = torch.randn(1024, 1024), torch.randn(1024, 1024)
    half = a.bfloat16(), b.bfloat16()
    source = torch.empty(64 << 20, dtype=torch.uint8)
    target = torch.empty_like(source)
    calls = {"fp32": lambda: a @ b, "bf16": lambda: half[0] @ half[1], "copy": lambda: target.copy_(source)}
    best = {name: min(timing.wall) for name, timing in interleaved(calls, rounds=10).items()}
    return {
        "gemm_fp32_gflops": 2 * 1024**3 / best["fp32"] / 1e9,
        "gemm_bf16_gflops": 2 * 1024**3 / best["bf16"] / 1e9,
        "copy_gbs": 2 * source.numel() / best["copy"] / 1e9,
    }


def machine() -> dict[str, str | int]:
    """The machine and the library, for the head of a table."""
    return {
        "processor": platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "date": time.strftime("%Y-%m-%d"),
    }


def save(path: Path, result: Mapping[str, Any]) -> None:
    """Write a benchmark's figures as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(result, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
