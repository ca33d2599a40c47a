"""What a run costs in energy, by the processor's own counter where one may read it (Linux, RAPL)."""

from __future__ import annotations

from pathlib import Path

COUNTERS = Path("/sys/class/powercap")
MICRO = 1e-6


class EnergyMeter:
    """Joules of all processor packages since it was made, or None without a counter that may be read.

    Counters start again at zero after some minutes to hours, so `sample` has to be called more often than
    that: once an epoch does.

    Args:
        counters: the folder of the counters; ``intel-rapl:N`` are packages (on AMD's processors too), and
            ``intel-rapl:N:M`` parts of these.
    """

    def __init__(self, counters: Path = COUNTERS) -> None:
        self._zones = sorted(zone for zone in counters.glob("intel-rapl:*") if zone.name.count(":") == 1)
        self._last = [_read(zone / "energy_uj") for zone in self._zones]
        self._total = 0

    def sample(self) -> None:
        """Add what has been used since the last sample."""
        now = [_read(zone / "energy_uj") for zone in self._zones]
        for zone, before, after in zip(self._zones, self._last, now, strict=True):
            if before is not None and after is not None:
                span = _read(zone / "max_energy_range_uj") or 0
                self._total += after - before if after >= before else after - before + span
        self._last = now

    @property
    def joules(self) -> float | None:
        """Energy up to the last sample."""
        return self._total * MICRO if self._zones and None not in self._last else None


def _read(file: Path) -> int | None:
    try:
        return int(file.read_text())
    except (OSError, ValueError):
        # Since 2020 Linux shows these to root alone.
        return None
