"""The energy counter, on a folder like that of Linux."""

from __future__ import annotations

from pathlib import Path

import pytest

from richkd.training.energy import EnergyMeter


def set_counter(root: Path, zone: str, micro: int, span: int = 1_000_000) -> None:
    folder = root / zone
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "energy_uj").write_text(f"{micro}\n")
    (folder / "max_energy_range_uj").write_text(f"{span}\n")


def test_packages_are_added_up_and_parts_of_them_are_not(tmp_path: Path) -> None:
    for zone in ("intel-rapl:0", "intel-rapl:1", "intel-rapl:0:0"):
        set_counter(tmp_path, zone, 100)
    meter = EnergyMeter(tmp_path)
    set_counter(tmp_path, "intel-rapl:0", 500_100)
    set_counter(tmp_path, "intel-rapl:1", 250_100)
    set_counter(tmp_path, "intel-rapl:0:0", 900_000)
    meter.sample()
    assert meter.joules == pytest.approx(0.75)


def test_a_counter_that_starts_again_is_followed(tmp_path: Path) -> None:
    set_counter(tmp_path, "intel-rapl:0", 900_000)
    meter = EnergyMeter(tmp_path)
    for micro in (100_000, 800_000, 50_000):
        set_counter(tmp_path, "intel-rapl:0", micro)
        meter.sample()
    assert meter.joules == pytest.approx(0.2 + 0.7 + 0.25)


def test_without_a_counter_nothing_is_claimed(tmp_path: Path) -> None:
    assert EnergyMeter(tmp_path).joules is None
    set_counter(tmp_path, "intel-rapl:0", 0)
    (tmp_path / "intel-rapl:0" / "energy_uj").unlink()
    meter = EnergyMeter(tmp_path)
    meter.sample()
    assert meter.joules is None
