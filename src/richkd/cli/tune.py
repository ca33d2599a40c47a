"""The command ``richkd tune``; no logic."""

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


def tune(
    plan: Annotated[
        Path,
        Parameter(help="YAML file with methods:, epochs: and budget:; see docs/tune.md", converter=place),
    ],
    /,
    *,
    out: Annotated[
        Path | None, Parameter(help="folder of the search (default: runs/PLAN)", converter=place)
    ] = None,
    jobs: Jobs = None,
    json: Json = False,
    check: Annotated[bool, Parameter(help="check the plan without starting a run", negative="")] = False,
) -> None:
    """Search the settings of methods by many short runs on the validation split; repeat it to go on.

    All methods have the same budget. Writes a recipe for each method, tune.html, tune.md and tune.json.

    For example:

    richkd tune plan.yaml --out runs/tune
    """
    with quick_imports():
        from richkd.tune.pages import print_table, results_file
        from richkd.tune.run import tune as run_tune

    refuse_json_of_checks(json, check)
    with json_only(json) as write, queue_console(jobs) as console:
        result = run_tune(plan, out=out, jobs=jobs, check_only=check, console=console)
        if result is None:
            return
        if json:
            write(results_file(result.out))
        else:
            print_table(result.methods, result.metric, result.out, console)
        console.print(f"page: {result.out / 'tune.html'}", soft_wrap=True)
        if any(method.best is None for method in result.methods):
            sys.exit(FAILED)
