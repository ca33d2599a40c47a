"""Peak memory of the contrastive loss, forward and backward, measured in a process of its own.

    python benchmarks/peak.py reference|fp32|bf16 [NEGATIVES IMAGES]

Prints the bytes by which resident memory rose at its highest, banks and inputs being there already. Ours
draws its negatives within what is measured; the reference is given its rows. Needs Linux's /proc.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

BATCH, NEGATIVES, IMAGES, WIDTH, CLASSES = 64, 16384, 50_000, 128, 100
KINDS = ("reference", "fp32", "bf16")


def peak_bytes(kind: str, negatives: int = NEGATIVES, images: int = IMAGES) -> int:
    """What this script prints, run afresh."""
    command = [sys.executable, __file__, kind, str(negatives), str(images)]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def _measure(kind: str, negatives: int, images: int) -> int:
    # Both take too long for a process that only starts this script.
    import torch
    from growth_steps import contrast_step
    from tests.reference.step import Contrast

    if kind == "reference":

        def call_of(negatives: int, images: int) -> object:
            loss_of = Contrast(images, WIDTH, 0.07, 0.5)
            rows_BK1 = torch.randint(images, (BATCH, negatives + 1))
            inputs = [torch.randn(BATCH, WIDTH, requires_grad=True) for _ in range(2)]
            return lambda: loss_of(*inputs, rows_BK1).backward()
    else:

        def call_of(negatives: int, images: int) -> object:
            labels_N = torch.arange(images) % CLASSES
            return contrast_step("memory-bank", labels_N, negatives, half=kind == "bf16")

    # What libraries allocate once belongs to no loss, so a small one goes first.
    call_of(16, 10 * CLASSES)()  # type: ignore[operator]
    call = call_of(negatives, images)
    # From here on the kernel's high-water mark is what is resident now.
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    before = _status("VmRSS")
    call()  # type: ignore[operator]
    return _status("VmHWM") - before


def _status(field: str) -> int:
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(f"{field}:"):
            return 1024 * int(line.split()[1])
    raise RuntimeError(f"/proc/self/status has no {field}")


if __name__ == "__main__":
    print(_measure(sys.argv[1], *map(int, sys.argv[2:] or (NEGATIVES, IMAGES))))
