"""Findings follow from the report alone."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from richkd.doctor.advice import findings
from richkd.doctor.report import examine

GB = 1 << 30
NVIDIA = {"name": "Tesla V100", "driver_version": "390.12"}
# A machine on which nothing is wrong.
HEALTHY: dict[str, Any] = {
    "software": {"python": "3.12.1", "missing": {}, "broken": {}},
    "system": {"encoding": "utf-8", "file_names": "utf-8"},
    "processor": {"usable": 8, "quota": None, "bfloat16": True},
    "memory": {"available": 16 * GB, "limit": None, "shared_free": 8 * GB},
    "gpu": {
        "cuda_usable": False,
        "cuda_build": "12.8",
        "cuda_problem": None,
        "cuda_devices": [],
        "mps_usable": False,
        "threads": 8,
        "driver": [],
    },
    "compiler": {"name": "g++", "python_headers": True, "triton": True},
    "storage": {name: {"folder": name, "free": 50 * GB, "writable": True} for name in ("runs", "hub")},
    "hub": {"address": "https://huggingface.co", "reachable": True, "problem": None},
    "variables": {"OMP_NUM_THREADS": "8"},
}


def changed(**changes: Any) -> dict[str, Any]:
    """The healthy report with other facts; ``__`` separates section and fact."""
    report = copy.deepcopy(HEALTHY)
    for path, value in changes.items():
        *sections, name = path.split("__")
        place = report
        for section in sections:
            place = place[section]
        place[name] = value
    return report


def test_nothing_is_wrong_on_a_healthy_machine_or_without_facts() -> None:
    assert findings(HEALTHY) == []
    assert findings({}) == []


def test_the_healthy_report_has_the_facts_of_a_real_one() -> None:
    real = examine(offline=True)
    for section, facts in HEALTHY.items():
        if section != "variables":
            assert set(facts) <= set(real[section]), section


V100 = {"name": "V100", "memory": 16 * GB, "capability": "7.0", "bfloat16": False}
CASES: list[tuple[dict[str, Any], str, str, str]] = [
    ({"software__python": "3.9.2"}, "error", "3.9.2", "newer Python"),
    (
        {"software__missing": {"timm>=1.0.31": "not installed"}},
        "error",
        "not installed",
        "pip install 'timm>",
    ),
    ({"software__missing": {"timm>=1.0.31": "0.9"}}, "warning", "0.9 is installed", "pip install 'timm>"),
    ({"software__broken": {"torchvision": "RuntimeError: nms"}}, "error", "nms", "reinstall"),
    ({"gpu__driver": [NVIDIA], "gpu__cuda_build": None}, "warning", "for the CPU only", "for CUDA"),
    (
        {"gpu__driver": [NVIDIA], "gpu__cuda_problem": "driver is too old"},
        "warning",
        "driver is too old",
        "update the driver 390.12 for CUDA 12.8",
    ),
    (
        {"gpu__driver": [NVIDIA], "variables__CUDA_VISIBLE_DEVICES": ""},
        "warning",
        "hides",
        "unset CUDA_VISIBLE_DEVICES",
    ),
    ({"gpu__cuda_usable": True, "gpu__cuda_devices": [V100]}, "warning", "V100 has no bfloat16", "fp32"),
    ({"processor__bfloat16": False}, "warning", "no instructions for bfloat16", "GPU"),
    ({"variables__OMP_NUM_THREADS": "9"}, "warning", "OMP_NUM_THREADS is 9", "OMP_NUM_THREADS=8"),
    ({"processor__quota": 1.5}, "warning", "may use 1.5 cores", "OMP_NUM_THREADS=1"),
    ({"processor__usable": 4, "variables__OMP_NUM_THREADS": ""}, "warning", "threads is 8", "THREADS=4"),
    ({"memory__available": 2 * GB}, "warning", "2.0 GB of memory", "--data.in_memory_gb"),
    ({"memory__limit": 1 * GB}, "warning", "1.0 GB of memory", "--data.in_memory_gb"),
    ({"memory__shared_free": 64 << 20}, "warning", "0.06 GB of shared memory", "--shm-size"),
    ({"storage__runs__free": 1 * GB}, "warning", "1.0 GB are free at runs", "--out"),
    ({"storage__hub__writable": False}, "warning", "cannot be written to hub", "HF_HOME"),
    ({"hub__reachable": False, "hub__problem": "timeout"}, "warning", "timeout", "HF_HUB_OFFLINE=1"),
    ({"compiler__name": None}, "warning", "no C++ compiler", "g++"),
    ({"compiler__python_headers": False}, "warning", "header files", "python3-dev"),
    (
        {"gpu__cuda_usable": True, "compiler__triton": False},
        "warning",
        "Triton is not installed",
        "--train.compile never",
    ),
    ({"system__file_names": "ascii"}, "warning", "file", "PYTHONUTF8=1"),
    ({"system__encoding": "ISO-8859-1"}, "warning", "ISO-8859-1", "PYTHONUTF8=1"),
]


@pytest.mark.parametrize(("changes", "level", "problem", "fix"), CASES, ids=lambda one: str(one)[:40])
def test_each_thing_that_is_wrong_is_said_once_with_a_fix(
    changes: dict[str, Any], level: str, problem: str, fix: str
) -> None:
    (finding,) = findings(changed(**changes))
    assert finding.level == level
    assert problem in finding.problem
    assert fix in finding.fix


def test_errors_come_first() -> None:
    results = findings(changed(compiler__name=None, software__python="3.9.2"))
    assert [one.level for one in results] == ["error", "warning"]


def test_without_a_gpu_nothing_is_said_about_it_and_with_one_nothing_about_the_processor() -> None:
    assert findings(changed(compiler__triton=False)) == []
    assert findings(changed(variables__CUDA_VISIBLE_DEVICES="")) == []
    assert findings(changed(gpu__cuda_usable=True, processor__bfloat16=False)) == []
