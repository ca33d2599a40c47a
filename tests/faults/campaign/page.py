"""The measured part of docs/reliability.md."""

from __future__ import annotations

import datetime
import os
import platform
from collections.abc import Sequence
from pathlib import Path

from tests.faults.campaign.outcome import LOST, REFUSED, SILENT, SURVIVED, Outcome

BEGIN, END = "<!-- measured: begin -->", "<!-- measured: end -->"
COLUMNS = (SURVIVED, REFUSED, SILENT, LOST)


def table(outcomes: Sequence[Outcome]) -> str:
    """A Markdown table with a row for each kind of fault, and a sum."""
    lines = ["| fault | tried | " + " | ".join(COLUMNS) + " | |", "|---" * (len(COLUMNS) + 3) + "|"]
    for outcome in outcomes:
        counts = " | ".join(f"{outcome.counts[column]:,}" for column in COLUMNS)
        lines.append(f"| {outcome.name} | {outcome.tried:,} | {counts} | {outcome.note} |")
    sums = " | ".join(f"{sum(o.counts[column] for o in outcomes):,}" for column in COLUMNS)
    lines.append(f"| all | {sum(outcome.tried for outcome in outcomes):,} | {sums} | |")
    return "\n".join(lines)


def write_page(page: Path, outcomes: Sequence[Outcome], seconds: float) -> None:
    """Replace the measured part of the page."""
    text = page.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    assert rest
    assert after
    machine = f"{os.cpu_count()} cores of {platform.machine()}, Python {platform.python_version()}"
    caption = f"`make faults`, {datetime.date.today().isoformat()}, {machine}, {seconds / 60:.0f} min."
    page.write_text(f"{before}{BEGIN}\n{caption}\n\n{table(outcomes)}\n{END}{after}", encoding="utf-8")
