"""Everything that ``richkd doctor`` says, as data and as plain text."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from richkd.core import huge_pages
from richkd.core.machine import GIGABYTE
from richkd.core.visible import visible
from richkd.doctor.advice import findings
from richkd.doctor.graphics import driver_gpus, graphics
from richkd.doctor.hub import hub
from richkd.doctor.private import without_person
from richkd.doctor.processor import memory, processor
from richkd.doctor.software import compiler, software
from richkd.doctor.storage import storage
from richkd.doctor.surroundings import system, variables

MEBIBYTE = 1 << 20
SIZES = frozenset({"memory", "total", "available", "limit", "shared_free", "free"})


def examine(*, offline: bool, runs: Path = Path("runs")) -> dict[str, Any]:
    """Facts about the machine and the installation, and ``findings``: what is probably wrong.

    Sizes are in bytes. Home folders are ``~``. Names of the user and of the machine, and secrets, are not
    part of it.

    Args:
        offline: do not use the network.
        runs: folder of runs.

    Example:
        >>> sorted(examine(offline=True))[:3]
        ['compiler', 'findings', 'gpu']
    """
    at_hub = hub(offline=offline)
    report: dict[str, Any] = {
        "software": software(),
        "system": system(),
        "processor": processor(),
        "memory": {**memory(), "huge_pages": huge_pages.state(os.environ)},
        "gpu": {**graphics(), "driver": driver_gpus()},
        "compiler": compiler(),
        "storage": {"runs": storage(runs), "hub": storage(Path(at_hub["cache"]))},
        "hub": at_hub,
        "variables": variables(),
    }
    report["findings"] = [asdict(one) for one in findings(report)]
    private: dict[str, Any] = without_person(report)
    return private


def prevents_running(report: Mapping[str, Any]) -> bool:
    """Whether something of a report prevents every run.

    Example:
        >>> prevents_running({"findings": [{"level": "warning"}]})
        False
    """
    return any(one["level"] == "error" for one in report["findings"])


def lines_of(report: Mapping[str, Any]) -> Iterator[str]:
    """A report as lines of plain text, for people and bug reports.

    Example:
        >>> list(lines_of({"memory": {"available": 3 * 2**30, "limit": None}, "findings": []}))
        ['memory', '  available: 3.0 GB', '  limit: none', '', 'nothing seems to be wrong']
    """
    for name, section in report.items():
        if name != "findings":
            yield name
            yield from (f"  {line}" for line in _lines(section))
            yield ""
    for one in report["findings"]:
        yield f"{one['level']}: {visible(one['problem'])}"
        yield f"  fix: {visible(one['fix'])}"
    if not report["findings"]:
        yield "nothing seems to be wrong"


def _lines(section: Mapping[str, Any]) -> Iterator[str]:
    """The facts of a section, one in a line; nested ones are indented."""
    if not section:
        yield "none"
    for name, value in section.items():
        label = name.replace("_", " ") if name.islower() else name
        nested = value if isinstance(value, Mapping) else {}
        items = value if isinstance(value, list) and value and isinstance(value[0], Mapping) else []
        if nested:
            yield f"{label}:"
            yield from (f"  {line}" for line in _lines(nested))
        elif items:
            yield f"{label}:"
            yield from (f"  - {', '.join(_lines(item))}" for item in items)
        else:
            yield f"{label}: {_text(name, value)}"


def _text(name: str, value: Any) -> str:
    if value is None or value == [] or value == {}:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if name in SIZES and isinstance(value, int):
        return f"{value / GIGABYTE:.1f} GB" if value >= GIGABYTE else f"{value / MEBIBYTE:.0f} MB"
    if isinstance(value, list):
        return ", ".join(visible(str(item)) for item in value)
    return visible(str(value))
