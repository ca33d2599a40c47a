"""Facts about processor, memory, disks and GPUs, read from made-up systems."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from richkd.doctor import graphics as graphics_module
from richkd.doctor.graphics import driver_gpus, graphics
from richkd.doctor.processor import memory, processor
from richkd.doctor.storage import storage
from tests.core.closed import LONG, close

KB = 1024


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_a_processor_of_intel_and_one_of_arm(tmp_path: Path) -> None:
    flags = "flags\t\t: fpu avx2 avx512f amx_bf16 avx512_bf16\nmodel name\t: Xeon(R)\n"
    intel = processor(write(tmp_path / "intel", {"proc/cpuinfo": f"processor\t: 0\n{flags}\n"}))
    assert intel["model"] == "Xeon(R)"
    assert intel["instructions"] == ["avx2", "avx512f", "avx512_bf16", "amx_bf16"]
    assert intel["bfloat16"] is True
    arm = processor(write(tmp_path / "arm", {"proc/cpuinfo": "Features\t: fp asimd i8mm\n"}))
    assert (arm["instructions"], arm["bfloat16"]) == (["asimd", "i8mm"], False)
    assert arm["model"]
    assert processor(tmp_path / "nothing")["bfloat16"] is None


@pytest.mark.parametrize(
    ("files", "quota", "limit"),
    [
        ({}, None, None),
        ({"cpu.max": "max 100000", "memory.max": "max"}, None, None),
        ({"cpu.max": "250000 100000", "memory.max": "1073741824"}, 2.5, 1 << 30),
        ({"own/part/cpu.max": "max 100000", "own/cpu.max": "50000 100000"}, 0.5, None),
        ({"cpu/cpu.cfs_quota_us": "400000", "cpu/cpu.cfs_period_us": "100000"}, 4.0, None),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, None, None),
        ({"memory/memory.limit_in_bytes": "9223372036854771712"}, None, None),
        ({"memory/memory.limit_in_bytes": "2147483648"}, None, 2 << 30),
    ],
)
def test_limits_of_containers(
    tmp_path: Path, files: dict[str, str], quota: float | None, limit: int | None
) -> None:
    groups = {f"sys/fs/cgroup/{name}": f"{text}\n" for name, text in files.items()}
    root = write(tmp_path, {"proc/self/cgroup": "0::/own/part\n", **groups})
    assert processor(root)["quota"] == quota
    assert memory(root)["limit"] == limit


def test_memory_of_the_system_in_bytes(tmp_path: Path) -> None:
    lines = "MemTotal:  16 kB\nMemFree: 1 kB\nMemAvailable:  9 kB\nHugePages_Total: 0\nOdd: x kB\n"
    root = write(tmp_path, {"proc/meminfo": lines})
    assert memory(root) == {"total": 16 * KB, "available": 9 * KB, "limit": None, "shared_free": None}
    assert memory()["available"] > 1 << 20  # type: ignore[operator]


def test_a_folder_that_does_not_exist_has_the_space_of_its_parent(tmp_path: Path) -> None:
    result = storage(tmp_path / "a" / "b")
    assert not result["exists"]
    assert result["writable"]
    assert result["free"] == pytest.approx(storage(tmp_path)["free"], rel=0.1)
    file = tmp_path / "file"
    file.write_text("")
    assert not storage(file / "runs")["writable"]


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written(tmp_path: Path) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o500)
    assert not storage(closed / "runs")["writable"]


def test_gpus_of_the_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    def answer(*words: Any, **options: Any) -> Any:
        lines = "0, NVIDIA H100, 81559, 80000, 550.54, 9.0\nodd line\n"
        return subprocess.CompletedProcess(words, 0, stdout=lines, stderr="")

    monkeypatch.setattr(graphics_module.subprocess, "run", answer)
    (gpu,) = driver_gpus()
    assert gpu["name"] == "NVIDIA H100"
    assert gpu["driver_version"] == "550.54"

    def hang(*words: Any, **options: Any) -> Any:
        raise subprocess.TimeoutExpired("nvidia-smi", 10)

    monkeypatch.setattr(graphics_module.subprocess, "run", hang)
    assert driver_gpus() == []


def test_the_reason_why_cuda_cannot_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    import warnings

    import torch

    def available() -> bool:
        warnings.warn("CUDA initialization: the driver is too old (found version 9000).\nMore.", stacklevel=1)
        return False

    monkeypatch.setattr(torch.cuda, "is_available", available)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    result = graphics()
    assert result["cuda_problem"] == "CUDA initialization: the driver is too old (found version 9000)."
    assert result["cuda_devices"] == []


def test_devices_with_memory_and_without_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    class Properties:
        name, total_memory, major, minor = "V100", 16 << 30, 7, 0

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: Properties)
    expected = {"name": "V100", "memory": 16 << 30, "capability": "7.0", "bfloat16": False}
    assert graphics()["cuda_devices"] == [expected]


def test_a_folder_in_one_that_may_not_be_searched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = tmp_path / "closed" / "runs"
    runs.mkdir(parents=True)
    close(monkeypatch, runs.parent)
    result = storage(runs)
    assert (result["exists"], result["writable"]) == (False, False)
    assert result["free"] > 0


def test_a_name_that_is_too_long_and_a_link_to_itself(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    for name in (LONG, "loop"):
        assert not storage(tmp_path / name)["exists"]
