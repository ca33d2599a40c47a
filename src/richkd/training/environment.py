"""What a result can depend on besides settings and images: versions, hardware and number of threads.

Sums of floating-point numbers depend on how many threads share them. So a resumed run gets the number of
threads that it was started with, and any other difference is reported.
"""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from richkd.config.marks import flattened
from richkd.core.device import pick_device
from richkd.core.logs import Log
from richkd.core.structured import read_json
from richkd.core.versions import versions_of

ENVIRONMENT = "environment.json"
PACKAGES = (
    "richkd",
    "torch",
    "torchvision",
    "timm",
    "open_clip_torch",
    "datasets",
    "accelerate",
    "numpy",
    "pillow",
)
# Variables by which a user sets the number of threads.
THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
# No bit of a result depends on these. On a CPU, none depends on the GPU either.
WITHOUT_EFFECT = frozenset({"cores", "resumed"})


def environment(device: str = "auto", processes: int = 1) -> dict[str, Any]:
    """Versions and hardware that a result can depend on.

    Args:
        device: setting ``train.device``.
        processes: number of processes that train together.

    Example:
        >>> "torch" in environment()["packages"]
        True
    """
    return {
        "python": platform.python_version(),
        "packages": versions_of(PACKAGES),
        "machine": platform.machine(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "device": pick_device(device).type,
        "processes": processes,
        "commit": _commit(),
    }


def recorded_environment(run: Path) -> dict[str, Any]:
    """The recorded environment of a run; empty if there is no record, or if it is damaged.

    Example:
        >>> recorded_environment(Path("nowhere"))
        {}
    """
    try:
        recorded: dict[str, Any] = read_json(run / ENVIRONMENT)
        last_environment(recorded)
    except (OSError, ValueError, TypeError, AttributeError, IndexError):
        return {}
    return recorded


def last_environment(recorded: Mapping[str, Any]) -> dict[str, Any]:
    """The environment of the last session, by dotted name.

    Example:
        >>> last_environment({"threads": 1, "resumed": [{"step": 9, "changes": {"threads": [1, 2]}}]})
        {'threads': 2}
    """
    latest = dict(flattened({name: value for name, value in recorded.items() if name != "resumed"}))
    for session in recorded.get("resumed", []):
        latest |= {name: pair[1] for name, pair in session.get("changes", {}).items()}
    return latest


def changes_between(recorded: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Value of the last session and present value of everything on which bits of a result can depend.

    Example:
        >>> changes_between({"threads": 4, "cores": 8}, {"threads": 2, "cores": 2})
        {'threads': [4, 2]}
    """
    then, present = last_environment(recorded), dict(flattened(now))
    ignored = WITHOUT_EFFECT | ({"gpu"} if then.get("device") == present.get("device") == "cpu" else set())
    names = [name for name in then if name in present and name not in ignored]
    return {name: [then[name], present[name]] for name in names if then[name] != present[name]}


def with_session(
    recorded: Mapping[str, Any], step: int, changes: Mapping[str, list[Any]], images: Sequence[str] = ()
) -> dict[str, Any]:
    """The record of a run that is resumed at a step in an environment with these changes.

    Args:
        recorded: the record so far.
        step: number of steps made.
        changes: old and new value by name.
        images: how the images differ.

    Example:
        >>> with_session({"threads": 1}, 9, {"threads": [1, 2]})
        {'threads': 1, 'resumed': [{'step': 9, 'changes': {'threads': [1, 2]}}]}
    """
    if not changes and not images:
        return dict(recorded)
    session = {"step": step, "changes": dict(changes)} | ({"images": list(images)} if images else {})
    return {**recorded, "resumed": [*recorded.get("resumed", []), session]}


@contextmanager
def threads_of(recorded: Mapping[str, Any], log: Log) -> Iterator[None]:
    """Compute with the number of threads of the last session, unless the user set another one.

    Args:
        recorded: the environment that the run recorded.
        log: receives a line if the number changes.

    Example:
        >>> with threads_of({"threads": torch.get_num_threads()}, print):
        ...     pass
    """
    current, threads = torch.get_num_threads(), last_environment(recorded).get("threads")
    set_by_user = any(os.environ.get(name) for name in THREAD_VARIABLES)
    if not isinstance(threads, int) or threads < 1 or threads == current or set_by_user:
        yield
        return
    log(f"threads: {threads}, as when the run was started (here {current})")
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(current)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown"
    )


def _commit() -> str | None:
    """The git commit of the source tree; None if it is not a git checkout."""
    try:
        result = subprocess.run(
            ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"],
            capture_output=True,
            text=True,
            timeout=5,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return result.stdout.strip()
