"""Whether the runs of a comparison were computed in the same precision, which each run may measure."""

from __future__ import annotations

from collections.abc import Sequence

from richkd.compare.runs import PlannedRun, by_cell
from richkd.models.speed import SPEED, Speed, read_speeds

STUDENT = "student"


def precision_warnings(runs: Sequence[PlannedRun]) -> list[str]:
    """A warning for each cell whose students were trained in different precisions.

    Args:
        runs: the finished runs.
    """
    warnings = []
    for cell, members in by_cell(list(runs)):
        names: dict[str, list[str]] = {}
        for run in members:
            choice = read_speeds(run.config.out / SPEED).get(STUDENT)
            if choice is not None:
                names.setdefault(Speed(**choice).describe(), []).append(run.name)
        if len(names) > 1:
            named = "; ".join(f"{precision}: {', '.join(of)}" for precision, of in names.items())
            warnings.append(
                f"{cell.title}: the students were trained in different precisions ({named}); "
                "set train.precision and train.compile in base to compare methods only."
            )
    return warnings
