"""How much of the machine this process may use, and the unit in which its memory is counted."""

from __future__ import annotations

import os

# Bytes of 1 GB in messages and reports.
GIGABYTE = 1 << 30


def cores() -> int:
    """The number of cores that this process may use.

    Example:
        >>> cores() >= 1
        True
    """
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
