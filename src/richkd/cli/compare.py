"""The command ``richkd compare``; no logic."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from richkd.cli.exit_status import FAILED
from richkd.cli.json_output import Json, json_only, refuse_json_of_checks
from richkd.cli.options import place
from richkd.cli.queues import Jobs, queue_console
from richkd.core.quick_imports import quick_imports


def compare(
    plan: Annotated[
        Path,
        Parameter(help="YAML file with methods:, seeds: and so on; see docs/compare.md", converter=place),
    ],
    /,
    *,
    out: Annotated[
        Path | None, Parameter(help="folder of the comparison (default: runs/PLAN)", converter=place)
    ] = None,
    baseline: Annotated[
        str | None, Parameter(help="method that the others are compared with (default: that of the plan)")
    ] = None,
    jobs: Jobs = None,
    json: Json = False,
    check: Annotated[bool, Parameter(help="check all runs without starting one", negative="")] = False,
) -> None:
    """Compare methods over seeds, students, data and budgets, with controls; repeat it to go on after a stop.

    All runs are checked before the first one starts. Finished runs are kept, and stopped ones go on. Writes
    compare.html, compare.md, compare.tex, compare.csv and compare.json.

    For example:

    richkd compare plan.yaml --out runs/compare
    """
    with quick_imports():
        from richkd.compare.pages import print_tables
        from richkd.compare.results import results_file
        from richkd.compare.run import compare as run_compare

    refuse_json_of_checks(json, check)
    with json_only(json) as write, queue_console(jobs) as console:
        result = run_compare(plan, out=out, baseline=baseline, jobs=jobs, check_only=check, console=console)
        if result is None:
            return
        if json:
            write(results_file(result.out))
        else:
            print_tables(result.cells, result.costs, console, result.first)
        for warning in result.warnings:
            console.print(f"warning: {warning}", soft_wrap=True)
        console.print(f"page: {result.out / 'compare.html'}", soft_wrap=True)
        if result.failed:
            sys.exit(FAILED)
