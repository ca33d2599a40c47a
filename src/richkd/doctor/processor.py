"""The processor and the memory, and how much of both this process may use."""

from __future__ import annotations

import os
import platform
import subprocess
from pathlib import Path, PurePosixPath
from typing import Any

from richkd.core.machine import cores
from richkd.doctor.storage import free_bytes

# What decides whether bfloat16 and int8 are fast, by the names of Linux.
X86 = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_tile", "amx_bf16", "amx_int8")
ARM = ("asimd", "sve", "bf16", "i8mm")
BFLOAT16 = frozenset({"avx512_bf16", "amx_bf16", "bf16"})
MICROSECONDS = 1_000_000


def processor(root: Path = Path("/")) -> dict[str, Any]:
    """Model, cores and instructions of the processor.

    ``usable`` is the number of cores that this process may be scheduled on, ``quota`` the number whose time
    it may use (a limit of its container; None without one), and ``bfloat16`` whether there are instructions
    for bfloat16 (None if the system does not say).

    Args:
        root: root of the file system that has ``proc`` and ``sys``.

    Example:
        >>> processor()["usable"] >= 1
        True
    """
    fields = _cpuinfo(root)
    flags = set(fields.get("flags", fields.get("Features", "")).split())
    instructions = [name for name in (*X86, *ARM) if name in flags]
    return {
        "model": fields.get("model name") or _model_of_system(),
        "cores": os.cpu_count(),
        "usable": cores(),
        "quota": _quota(root),
        "instructions": instructions,
        "bfloat16": bool(BFLOAT16 & flags) if flags else None,
    }


def memory(root: Path = Path("/")) -> dict[str, int | None]:
    """Bytes of memory: all, available, the limit of the container, and free shared memory.

    Args:
        root: root of the file system that has ``proc``, ``sys`` and ``dev``.

    Example:
        >>> sorted(memory())
        ['available', 'limit', 'shared_free', 'total']
    """
    sizes = {}
    for line in _lines(root / "proc" / "meminfo"):
        name, _, value = line.partition(":")
        if value.strip().removesuffix("kB").strip().isdigit():
            sizes[name] = int(value.split()[0]) * 1024
    shared = root / "dev" / "shm"
    return {
        "total": sizes.get("MemTotal") or _physical(),
        "available": sizes.get("MemAvailable"),
        "limit": _limit(root),
        "shared_free": free_bytes(shared) if shared.is_dir() else None,
    }


def _cpuinfo(root: Path) -> dict[str, str]:
    """The fields of the first core."""
    fields: dict[str, str] = {}
    for line in _lines(root / "proc" / "cpuinfo"):
        name, separator, value = line.partition(":")
        if separator:
            fields.setdefault(name.strip(), value.strip())
    return fields


def _quota(root: Path) -> float | None:
    """Cores whose time the container may use, from version 2 or 1 of Linux control groups."""
    for folder in _groups(root):
        limit, _, period = next(iter(_lines(folder / "cpu.max")), "").partition(" ")
        if limit.isdigit():
            return int(limit) / int(period or MICROSECONDS // 10)
    old = root / "sys" / "fs" / "cgroup" / "cpu"
    quota, period = (next(iter(_lines(old / f"cpu.cfs_{name}_us")), "") for name in ("quota", "period"))
    return int(quota) / int(period) if quota.isdigit() and period.isdigit() and int(period) else None


def _limit(root: Path) -> int | None:
    """Bytes that the container may use."""
    old = root / "sys" / "fs" / "cgroup" / "memory" / "memory.limit_in_bytes"
    for file in (*(folder / "memory.max" for folder in _groups(root)), old):
        text = next(iter(_lines(file)), "")
        # Version 1 writes a number close to 2^63 if there is no limit.
        if text.isdigit() and int(text) < 1 << 60:
            return int(text)
    return None


def _groups(root: Path) -> list[Path]:
    """Folders of the control groups of this process, from its own to the root."""
    base = root / "sys" / "fs" / "cgroup"
    group = next((line[3:] for line in _lines(root / "proc/self/cgroup") if line.startswith("0::")), "/")
    path = PurePosixPath(group.strip().lstrip("/"))
    return [base / part for part in (path, *path.parents)]


def _model_of_system() -> str:
    if platform.system() == "Darwin":
        words = ["sysctl", "-n", "machdep.cpu.brand_string"]
        try:
            result = subprocess.run(words, capture_output=True, text=True, timeout=5, check=True)
            return result.stdout.strip()
        except (OSError, subprocess.SubprocessError):
            pass
    return platform.processor() or platform.machine()


def _physical() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
