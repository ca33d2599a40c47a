"""Decide whether compiling a network saves time, and compile it with a persistent cache."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from typing import Any

import torch

from richkd.core.errors import ConfigError
from richkd.core.home import expanded

# Number of steps from which compiling saves time (docs/performance.md). On 2 CPU cores compiling ResNet-8x4
# took 23 s and saved at most 15 of 220 ms per step. On an H200, ResNet-20 took 30 s and saved 12 of 20 ms.
STEPS_TO_REPAY = {"cpu": 5_000, "cuda": 2_500}


def compile_repays(choice: str, steps: int, device: torch.device) -> bool:
    """Whether to compile the student.

    Args:
        choice: ``"always"``; ``"never"``; or ``"auto"``, which compiles if the run has enough steps and there
            is a C++ compiler.
        steps: number of steps of the whole run, not of the remaining steps, so that a resumed run makes the
            same decision.
        device: the device of the training.

    Raises:
        ConfigError: ``choice`` is ``"always"`` and there is no C++ compiler.

    Example:
        >>> compile_repays("never", 1_000_000, torch.device("cpu"))
        False
        >>> compile_repays("auto", 10, torch.device("cpu"))
        False
    """
    if choice == "never" or (choice == "auto" and steps < STEPS_TO_REPAY.get(device.type, steps + 1)):
        return False
    has_compiler = any(map(shutil.which, (os.environ.get("CXX", "g++"), "clang++", "cl")))
    if choice == "always" and not has_compiler:
        raise ConfigError(
            "--train.compile=always needs a C++ compiler",
            got="neither $CXX nor g++, clang++ or cl on the PATH",
            fix="install g++, or use --train.compile=auto.",
        )
    return has_compiler


def compile_fixed(
    call: Callable[..., Any], device: torch.device, *, repeated: bool = True, **options: Any
) -> Callable[..., Any]:
    """Compile a function for inputs of fixed shapes with `torch.compile`.

    The compiled code is stored in ``~/.cache/richkd/compiled`` for later processes, unless
    ``TORCHINDUCTOR_CACHE_DIR`` is set. On an NVIDIA GPU, the kernels of a call are recorded as a CUDA graph,
    so that small networks do not wait for Python to start each of them (docs/performance.md).

    Args:
        call: the function or the forward method of a module.
        device: where its tensors are.
        repeated: whether nothing of a call is needed when the next one begins: neither its output nor the
            gradients of its backward pass. A CUDA graph writes them to the same memory.
        options: options of the compiler.

    Example:
        >>> double = compile_fixed(lambda x: 2 * x, torch.device("cpu"))
        >>> callable(double)  # it is compiled by the first call
        True
    """
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(expanded("~/.cache/richkd/compiled")))
    if device.type == "cuda" and repeated:
        options["triton.cudagraphs"] = True
    compiled: Callable[..., Any] = torch.compile(call, dynamic=False, options=options or None)
    return compiled
