"""How many runs the machine can compute at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from richkd.compare.runs import AnyRun
from richkd.core.device import pick_device
from richkd.core.files import write_atomically
from richkd.core.json_text import to_json
from richkd.core.machine import GIGABYTE, cores
from richkd.core.structured import read_json

# Memory of a run besides its images: libraries, networks and activations.
BASE_GIGABYTES = 3.0
CORES_A_RUN = 2
THREADS_FILE = "threads.json"


def default_jobs(runs: Sequence[AnyRun]) -> int:
    """The number of runs at once: one on a GPU, else what the cores and the free memory allow.

    Each run is expected to need 3 GB and the memory of its images (``data.in_memory_gb``).
    """
    if not runs or any(pick_device(run.config.train.device).type != "cpu" for run in runs):
        return 1
    most = max(run.config.data.in_memory_gb for run in runs) + BASE_GIGABYTES
    by_memory = int(free_gigabytes() // most)
    return max(1, min(len(runs), cores() // CORES_A_RUN, by_memory))


def free_gigabytes() -> float:
    """Memory that is available, in GB (2³⁰ bytes); 8 where the system does not say."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        (available,) = (line.split()[1] for line in lines if line.startswith("MemAvailable:"))
        return int(available) * 1024 / GIGABYTE
    except (OSError, ValueError):
        return 8.0


def threads_of_runs(out: Path, at_once: Mapping[str, int]) -> dict[str, int]:
    """Threads of each run: an equal part of the cores, by the kind of run.

    They are those with which the comparison began, because sums depend on their number.

    Args:
        out: folder of the comparison, which records the numbers.
        at_once: number of runs at once, by the kind of run.

    Raises:
        CheckpointError: the numbers cannot be recorded.
    """
    path = out / THREADS_FILE
    try:
        recorded = {kind: n for kind, n in read_json(path).items() if isinstance(n, int) and n >= 1}
    except (OSError, ValueError, AttributeError):
        recorded = {}
    threads = {kind: max(1, cores() // number) for kind, number in at_once.items()} | recorded
    if threads != recorded:
        write_atomically(path, (to_json(threads) + "\n").encode())
    return threads
