"""What came out of one part of the campaign."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

# How a fault can end. The last two must not occur.
SURVIVED, REFUSED, SILENT, LOST = "survived", "refused", "silent", "lost"


@dataclass
class Outcome:
    """Counts of one kind of fault.

    Attributes:
        name: what was done, for the table.
        counts: how many faults ended in which way.
        details: a line for every fault that ended silently or with a loss.
        note: what else is worth knowing.
    """

    name: str
    counts: Counter[str] = field(default_factory=Counter)
    details: list[str] = field(default_factory=list)
    note: str = ""

    def add(self, result: str, detail: str = "") -> None:
        """Count a fault."""
        self.counts[result] += 1
        if result in (SILENT, LOST):
            self.details.append(f"{self.name}: {result}: {detail}")

    @property
    def tried(self) -> int:
        """Number of faults."""
        return sum(self.counts.values())
