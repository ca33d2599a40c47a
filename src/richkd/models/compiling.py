"""When a compiler repays its time, and where it keeps what it made."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from richkd.core.errors import ConfigError

# Steps after which compiling has paid for itself. On 2 CPU cores it took 23 s for ResNet-8x4 and saved
# at most 15 of 220 ms a step (docs/performance.md). For a GPU this is an assumption, not a measurement.
STEPS_TO_REPAY = {"cpu": 5_000, "cuda": 2_000}


def compile_repays(choice: str, steps: int, device: torch.device) -> bool:
    """Whether a student is to be compiled: as chosen, or for "auto" if the run is long enough.

    ``steps`` are those of the whole run, not those that are left, so that a run that is resumed is
    compiled if it was before.

    Raises:
        ConfigError: chosen, where there is no C++ compiler.
    """
    if choice == "never" or (choice == "auto" and steps < STEPS_TO_REPAY.get(device.type, steps + 1)):
        return False
    has_compiler = any(map(shutil.which, (os.environ.get("CXX", "g++"), "clang++", "cl")))
    if choice == "always" and not has_compiler:
        raise ConfigError(
            "Compiling needs a C++ compiler",
            got="neither $CXX nor g++, clang++ or cl on the path",
            fix="install g++, or leave --train.compile at auto.",
        )
    return has_compiler


def compile_fixed(call: Callable[..., Any], **options: Any) -> Callable[..., Any]:
    """``call`` compiled for inputs of fixed shapes; what is compiled is kept on disk for the next process."""
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(Path("~/.cache/richkd/compiled").expanduser()))
    made: Callable[..., Any] = torch.compile(call, dynamic=False, **options)
    return made
