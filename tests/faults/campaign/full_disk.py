"""File systems that are full: a run on a tmpfs of a limited size, which is then enlarged."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from tests.faults.campaign.forks import run
from tests.faults.campaign.outcome import LOST, REFUSED, SILENT, SURVIVED, Outcome
from tests.faults.campaign.setting import Setting, differences

SIZES = 20


def fill_disks(setting: Setting, sizes: int = SIZES) -> list[Outcome]:
    """Run on 20 sizes, from nearly nothing to what a whole run needs.

    A run that ends with an error must go on, after the disk was enlarged, and end as an undisturbed one.
    """
    outcome = Outcome("full disk, `distill`")
    place = setting.root / "small-disk"
    place.mkdir()
    needed = _kilobytes(setting.reference("run"))
    for number in range(sizes):
        size = 4 + round(1.2 * needed * number / sizes)
        if not _mount(place, size):
            outcome.note = "not run: mounting a tmpfs needs the rights of root"
            return [outcome]
        try:
            _one(outcome, setting, place, size)
        finally:
            subprocess.run(["umount", str(place)], check=True)
    return [outcome]


def _one(outcome: Outcome, setting: Setting, place: Path, size: int) -> None:
    out = place / "run"
    first = run(setting.distill(out))
    if "Traceback" in first.text or first.status not in (0, 1):
        outcome.add(LOST, f"{size} KiB, status {first.status}: {first.text[-2000:]}")
        return
    if first.status == 0:
        different = differences(out, setting.reference("run"))
        outcome.add(SILENT if different else SURVIVED, f"{size} KiB: {different}")
        return
    subprocess.run(["mount", "-o", "remount,size=64m", str(place)], check=True)
    again = run(setting.distill(out, *(["--resume"] if out.exists() else [])))
    if again.status:
        outcome.add(LOST, f"{size} KiB, then enlarged: {again.text[-2000:]}")
        return
    different = differences(out, setting.reference("run"))
    outcome.add(SILENT if different else REFUSED, f"{size} KiB, then enlarged: {different}")


def _mount(place: Path, kilobytes: int) -> bool:
    if os.geteuid():
        return False
    command = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(place)]
    return subprocess.run(command, check=False, capture_output=True).returncode == 0


def _kilobytes(folder: Path) -> int:
    return sum(path.stat().st_size // 1024 + 4 for path in folder.rglob("*") if path.is_file())
