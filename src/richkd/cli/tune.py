"""The command ``richkd tune``; no logic."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from richkd.cli.options import place, whole


def tune(
    plan: Annotated[Path, Parameter(help="YAML file with methods:, epochs: and budget:; see docs/tune.md")],
    /,
    *,
    out: Annotated[
        Path | None, Parameter(help="folder of the search (default: runs/PLAN)", converter=place)
    ] = None,
    jobs: Annotated[int | None, Parameter(help="number of runs at once", converter=whole)] = None,
    check: Annotated[bool, Parameter(help="check the plan without starting a run", negative="")] = False,
) -> None:
    """Search the settings of methods by many short runs on the validation split; repeat it to go on.

    All methods have the same budget. Writes a recipe for each method, tune.html, tune.md and tune.json.

    For example:

    richkd tune plan.yaml --out runs/tune
    """
    from richkd.core.errors import ConfigError
    from richkd.core.interrupt import Interrupted
    from richkd.core.output import lasting
    from richkd.core.terminal import Terminal
    from richkd.tune.pages import print_table
    from richkd.tune.run import tune as run_tune

    if jobs is not None and jobs < 1:
        raise ConfigError("Option --jobs must be at least 1", got=str(jobs), fix="use --jobs 1.")
    # The result is a folder, so the search does not end with the reader of its messages.
    with lasting("stdout"):
        console = Terminal(width=None if sys.stdout.isatty() else 250)
        try:
            result = run_tune(plan, out=out, jobs=jobs, check_only=check, console=console)
        except Interrupted:
            print("\nstopped and saved; repeat the command to go on")
            sys.exit(130)
        if result is None:
            return
        print_table(result.methods, result.metric, result.out, console)
        console.print(f"page: {result.out / 'tune.html'}", soft_wrap=True)
        if any(method.best is None for method in result.methods):
            sys.exit(1)
