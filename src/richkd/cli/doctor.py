"""The command ``richkd doctor``; no logic."""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from richkd.cli.exit_status import FAILED
from richkd.cli.options import place
from richkd.core.json_text import to_json
from richkd.core.quick_imports import quick_imports


def doctor(
    *,
    json: Annotated[bool, Parameter(help="print JSON; sizes are in bytes", negative="")] = False,
    offline: Annotated[bool, Parameter(help="do not try to reach the hub", negative="")] = False,
    runs: Annotated[
        Path, Parameter(help="folder of runs, whose free space is shown", show_default=True, converter=place)
    ] = Path("runs"),
) -> None:
    """Describe machine and installation for a bug report, and say what is probably wrong, with a fix.

    Home folders are shown as ~; names of users and secrets are left out. The exit status is 1 only if
    something prevents every run.

    For example:

    richkd doctor

    richkd doctor --offline --json
    """
    # Libraries may print while they are imported, but not between the results.
    with redirect_stdout(sys.stderr), quick_imports():
        from richkd.doctor.report import examine, lines_of, prevents_running

        report = examine(offline=offline, runs=runs)
    if json:
        print(to_json(report, indent=2))
    else:
        for line in lines_of(report):
            print(line)
    if prevents_running(report):
        sys.exit(FAILED)
