"""Energy that a run uses, from the counters of the processor where they can be read (Linux, RAPL)."""

from __future__ import annotations

from pathlib import Path

COUNTERS = Path("/sys/class/powercap")
MICRO = 1e-6


class EnergyMeter:
    """Energy of all processor packages since the meter was created.

    The counters wrap around to zero after minutes to hours. Call `sample` more often than that, for example
    once per epoch.

    Args:
        counters: folder of the counters. ``intel-rapl:N`` is a package (also on AMD processors), and
            ``intel-rapl:N:M`` a part of it, which is not counted again.

    Example:
        >>> import tempfile
        >>> folder = tempfile.TemporaryDirectory()
        >>> EnergyMeter(Path(folder.name)).joules is None  # no counter
        True
        >>> zone = Path(folder.name) / "intel-rapl:0"
        >>> zone.mkdir()
        >>> size = (zone / "energy_uj").write_text("1000000")
        >>> meter = EnergyMeter(Path(folder.name))
        >>> size = (zone / "energy_uj").write_text("3500000")
        >>> meter.sample()
        >>> meter.joules
        2.5
        >>> folder.cleanup()
    """

    def __init__(self, counters: Path = COUNTERS) -> None:
        self._zones = sorted(zone for zone in counters.glob("intel-rapl:*") if zone.name.count(":") == 1)
        self._last = [_read(zone / "energy_uj") for zone in self._zones]
        self._total = 0

    def sample(self) -> None:
        """Add the energy used since the last sample."""
        now = [_read(zone / "energy_uj") for zone in self._zones]
        for zone, before, after in zip(self._zones, self._last, now, strict=True):
            if before is not None and after is not None:
                span = _read(zone / "max_energy_range_uj") or 0
                self._total += after - before if after >= before else after - before + span
        self._last = now

    @property
    def joules(self) -> float | None:
        """Energy in joules up to the last sample; None if no counter can be read."""
        return self._total * MICRO if self._zones and None not in self._last else None


def _read(file: Path) -> int | None:
    try:
        return int(file.read_text())
    except (OSError, ValueError):
        # Since 2020, only root can read these counters on Linux.
        return None
