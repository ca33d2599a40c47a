"""The command ``richkd compare``; no logic."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from richkd.cli.options import place, whole


def compare(
    plan: Annotated[Path, Parameter(help="YAML file with methods:, seeds: and so on; see docs/compare.md")],
    /,
    *,
    out: Annotated[
        Path | None, Parameter(help="folder of the comparison (default: runs/PLAN)", converter=place)
    ] = None,
    jobs: Annotated[int | None, Parameter(help="number of runs at once", converter=whole)] = None,
    check: Annotated[bool, Parameter(help="check all runs without starting one", negative="")] = False,
) -> None:
    """Compare methods over seeds, students, data and budgets, with controls; repeat it to go on after a stop.

    All runs are checked before the first one starts. Finished runs are kept, and stopped ones go on. Writes
    compare.html, compare.md, compare.tex, compare.csv and compare.json.

    For example:

    richkd compare plan.yaml --out runs/compare
    """
    from richkd.compare.pages import print_tables
    from richkd.compare.run import compare as run_compare
    from richkd.core.errors import ConfigError
    from richkd.core.interrupt import Interrupted
    from richkd.core.output import lasting
    from richkd.core.terminal import Terminal

    if jobs is not None and jobs < 1:
        raise ConfigError("Option --jobs must be at least 1", got=str(jobs), fix="use --jobs 1.")
    # The result is a folder, so the comparison does not end with the reader of its messages.
    with lasting("stdout"):
        # Tables are wide; where the output is no terminal, they are not wrapped.
        console = Terminal(width=None if sys.stdout.isatty() else 250)
        try:
            result = run_compare(plan, out=out, jobs=jobs, check_only=check, console=console)
        except Interrupted:
            print("\nstopped and saved; repeat the command to go on")
            sys.exit(130)
        if result is None:
            return
        print_tables(result.cells, result.costs, console, result.first)
        for warning in result.warnings:
            console.print(f"warning: {warning}", soft_wrap=True)
        console.print(f"page: {result.out / 'compare.html'}", soft_wrap=True)
        if result.failed:
            sys.exit(1)
