"""GPUs: those that the driver knows, and those that PyTorch can use."""

from __future__ import annotations

import subprocess
import warnings
from typing import Any

SECONDS = 10
FIELDS = ("index", "name", "memory.total", "memory.free", "driver_version", "compute_cap")


def driver_gpus() -> list[dict[str, str]]:
    """The NVIDIA GPUs that ``nvidia-smi`` names, with memory in MiB and version of the driver.

    Example:
        >>> all("driver_version" in gpu for gpu in driver_gpus())
        True
    """
    words = ["nvidia-smi", f"--query-gpu={','.join(FIELDS)}", "--format=csv,noheader,nounits"]
    try:
        result = subprocess.run(words, capture_output=True, text=True, timeout=SECONDS, check=True)
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
        return []
    rows = ([cell.strip() for cell in line.split(",")] for line in result.stdout.splitlines())
    return [dict(zip(FIELDS, row, strict=True)) for row in rows if len(row) == len(FIELDS)]


def graphics() -> dict[str, Any]:
    """What PyTorch knows of the hardware: its build, threads, GPUs, and why it cannot use them.

    Empty if PyTorch cannot be imported; `software` then says why.

    Example:
        >>> graphics()["threads"] >= 1
        True
    """
    try:
        import torch
    except Exception:
        return {}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            devices = [_device(index) for index in range(torch.cuda.device_count())]
            usable = torch.cuda.is_available()
        except (RuntimeError, AssertionError) as error:
            devices, usable = [], False
            warnings.warn(str(error), stacklevel=1)
    # Such as: the driver is too old.
    reasons = [str(one.message).strip().splitlines()[0] for one in caught if str(one.message).strip()]
    return {
        "cuda_build": torch.version.cuda,
        "hip_build": torch.version.hip,
        "cuda_usable": usable,
        "cuda_problem": None if usable else next(iter(reasons), None),
        "cuda_devices": devices if usable else [],
        "mps_usable": torch.backends.mps.is_available(),
        "threads": torch.get_num_threads(),
        "vector_instructions": torch.backends.cpu.get_cpu_capability(),
    }


def _device(index: int) -> dict[str, Any]:
    import torch

    properties = torch.cuda.get_device_properties(index)
    return {
        "name": properties.name,
        "memory": properties.total_memory,
        "capability": f"{properties.major}.{properties.minor}",
        # NVIDIA's first generation with bfloat16 is Ampere (8.0). AMD GPUs are taken to have it, untested.
        "bfloat16": properties.major >= 8 or torch.version.hip is not None,
    }
