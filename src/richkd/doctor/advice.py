"""What is probably wrong on a machine, each with a fix; a function of the report alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from richkd.core.machine import GIGABYTE

OLDEST_PYTHON = (3, 11)
# Less than this is too little for a run, for its checkpoints, for a CLIP, and for processes that decode.
LEAST_MEMORY, LEAST_DISK, LEAST_HUB, LEAST_SHARED = (n * GIGABYTE for n in (4, 2, 3, 1))

Report = Mapping[str, Any]


@dataclass(frozen=True)
class Finding:
    """Something that is probably wrong.

    Attributes:
        level: ``"error"`` if nothing can run because of it.
        problem: what is wrong, in one sentence without a period.
        fix: what the user can do.
    """

    level: Literal["error", "warning"]
    problem: str
    fix: str


def findings(report: Report) -> list[Finding]:
    """Everything that is probably wrong, errors first.

    Args:
        report: the sections of `richkd.doctor.report.examine`. Facts that are missing cause no finding.

    Example:
        >>> [one.problem for one in findings({"software": {"python": "3.9.1"}})]
        ['Python 3.9.1 is older than 3.11']
    """
    problems = [one for rule in RULES for one in rule(report)]
    return sorted(problems, key=lambda one: one.level != "error")


def _packages(report: Report) -> Iterator[Finding]:
    software = report.get("software", {})
    python = software.get("python", "3.11")
    if tuple(int(part) for part in python.split(".")[:2]) < OLDEST_PYTHON:
        yield Finding("error", f"Python {python} is older than 3.11", "install a newer Python.")
    for needed, version in software.get("missing", {}).items():
        fix = f"pip install '{needed}'"
        if version == "not installed":
            yield Finding("error", f"The package {needed} is not installed", fix)
        else:
            yield Finding("warning", f"richkd needs {needed}, and {version} is installed", fix)
    for name, message in software.get("broken", {}).items():
        fix = "reinstall torch and torchvision together: pip install --force-reinstall torch torchvision"
        yield Finding("error", f"The package {name} cannot be imported ({message})", fix)


def _gpu(report: Report) -> Iterator[Finding]:
    gpu, variables = report.get("gpu", {}), report.get("variables", {})
    driver, devices = gpu.get("driver", []), gpu.get("cuda_devices", [])
    hidden = variables.get("CUDA_VISIBLE_DEVICES", "0").strip() in ("", "-1")
    if driver and not gpu.get("cuda_usable", True):
        name, version = driver[0]["name"], driver[0]["driver_version"]
        if hidden:
            yield Finding(
                "warning",
                f"CUDA_VISIBLE_DEVICES hides the GPU {name}",
                "unset CUDA_VISIBLE_DEVICES, unless the CPU is meant.",
            )
        elif gpu.get("cuda_build") is None:
            yield Finding(
                "warning",
                f"There is a GPU ({name}), but this PyTorch is built for the CPU only",
                "install the build for CUDA; https://pytorch.org/get-started/locally has the command.",
            )
        else:
            reason = gpu.get("cuda_problem") or "it does not say why"
            yield Finding(
                "warning",
                f"PyTorch cannot use the GPU {name} ({reason})",
                f"update the driver {version} for CUDA {gpu['cuda_build']}, or install a PyTorch for an "
                "older CUDA.",
            )
    for device in devices:
        if not device["bfloat16"]:
            yield Finding(
                "warning",
                f"The GPU {device['name']} has no bfloat16",
                "add --train.precision fp32; auto may measure bfloat16, which is only emulated.",
            )


def _processor(report: Report) -> Iterator[Finding]:
    processor, gpu = report.get("processor", {}), report.get("gpu", {})
    on_cpu = not gpu.get("cuda_usable") and not gpu.get("mps_usable")
    if on_cpu and processor.get("bfloat16") is False:
        yield Finding(
            "warning",
            "The processor has no instructions for bfloat16, so runs are in float32",
            "nothing has to be changed; use a GPU for large networks.",
        )
    usable = processor.get("quota") or processor.get("usable")
    if usable is None:
        return
    most = max(1, int(usable))
    variable, threads = report.get("variables", {}).get("OMP_NUM_THREADS", ""), gpu.get("threads", 1)
    if variable.strip().isdigit() and int(variable) > most:
        threads, name = int(variable), "OMP_NUM_THREADS"
    else:
        name = "The number of threads"
    if threads > most:
        yield Finding(
            "warning",
            f"{name} is {threads}, but this process may use {usable:g} cores: threads wait for each other",
            f"export OMP_NUM_THREADS={most}",
        )


def _memory(report: Report) -> Iterator[Finding]:
    memory = report.get("memory", {})
    sizes = [memory[name] for name in ("available", "limit") if memory.get(name) is not None]
    if sizes and min(sizes) < LEAST_MEMORY:
        yield Finding(
            "warning",
            f"Only {min(sizes) / GIGABYTE:.1f} GB of memory can be used; a run needs 3 GB and its images",
            "end other programs, or add --data.in_memory_gb 0.5 --train.workers 1 and use smaller batches.",
        )
    shared = memory.get("shared_free")
    if shared is not None and shared < LEAST_SHARED:
        yield Finding(
            "warning",
            f"Only {shared / GIGABYTE:.2f} GB of shared memory are free; processes that decode images use it",
            "enlarge /dev/shm (for a container: --shm-size 8g), or add --train.workers 0.",
        )


def _storage(report: Report) -> Iterator[Finding]:
    places = report.get("storage", {})
    for name, least, option in (("runs", LEAST_DISK, "--out"), ("hub", LEAST_HUB, "the variable HF_HOME")):
        place = places.get(name, {})
        folder, free = place.get("folder"), place.get("free")
        if place and not place["writable"]:
            fix = f"choose another folder with {option}, or change the permissions."
            yield Finding("warning", f"Files cannot be written to {folder}", fix)
        elif free is not None and free < least:
            fix = f"remove old files, or choose another disk with {option}."
            yield Finding("warning", f"Only {free / GIGABYTE:.1f} GB are free at {folder}", fix)


def _hub(report: Report) -> Iterator[Finding]:
    hub = report.get("hub", {})
    if hub.get("reachable") is False:
        yield Finding(
            "warning",
            f"The hub at {hub['address']} cannot be reached ({hub['problem']})",
            "check the network and the variable HTTPS_PROXY; if all models are downloaded or local, "
            "export HF_HUB_OFFLINE=1 avoids waiting.",
        )


def _compiler(report: Report) -> Iterator[Finding]:
    compiler, on_gpu = report.get("compiler", {}), report.get("gpu", {}).get("cuda_usable", False)
    if not compiler:
        return
    if compiler["name"] is None:
        yield Finding(
            "warning",
            "There is no C++ compiler, so networks are not compiled",
            "install g++ (apt install g++, or Xcode's command line tools), or ignore this for short runs.",
        )
    elif not compiler["python_headers"]:
        yield Finding(
            "warning",
            "The header files of Python are missing, so compiling a network fails",
            "install them (apt install python3-dev), or add --train.compile never.",
        )
    if on_gpu and not compiler["triton"]:
        fix = "pip install triton, or add --train.compile never."
        yield Finding("warning", "Triton is not installed, so networks are not compiled on the GPU", fix)


def _encoding(report: Report) -> Iterator[Finding]:
    system = report.get("system", {})
    fix = "export PYTHONUTF8=1, and unset PYTHONIOENCODING."
    if _is_other_than_utf8(system.get("file_names")):
        rule = f"Names of files are read as {system['file_names']}, so those with other letters fail"
        yield Finding("warning", rule, fix)
    elif _is_other_than_utf8(system.get("encoding")):
        rule = f"Output is written as {system['encoding']}, so other letters are printed as \\u escapes"
        yield Finding("warning", rule, fix)


def _is_other_than_utf8(encoding: str | None) -> bool:
    return encoding is not None and encoding.lower().replace("-", "").replace("_", "") not in (
        "utf8",
        "utf8sig",
    )


RULES: tuple[Callable[[Report], Iterator[Finding]], ...] = (
    _packages,
    _gpu,
    _processor,
    _memory,
    _storage,
    _hub,
    _compiler,
    _encoding,
)
