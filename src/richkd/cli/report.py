"""The command ``richkd report``; no logic."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from richkd.cli.json_output import Json, json_only
from richkd.cli.options import evaluating, place
from richkd.config.schema import EvaluateConfig
from richkd.core.quick_imports import quick_imports


@evaluating("teachers")
def report(
    *runs: Annotated[str, Parameter(help="run folders; the first run's student is the one to ship")],
    config: EvaluateConfig,
    data: Annotated[
        str | None, Parameter(help="data to evaluate on (default: the data of the runs, where they were)")
    ] = None,
    json: Json = False,
    out: Annotated[
        Path | None, Parameter(help="folder of the page (default: RUN/report)", converter=place)
    ] = None,
) -> None:
    """Write a page that evaluates a student: report.html, report.md and summary.json.

    The first run's teachers are evaluated, too.

    For example:

    richkd report runs/small runs/control --corruptions --shift sketches=sketches/
    """
    with quick_imports():
        from richkd.core.errors import ConfigError
        from richkd.core.folder_lock import folder_lock
        from richkd.core.temporary import remove_abandoned
        from richkd.core.terminal import Terminal, log_to_stderr
        from richkd.reporting.report.collect import collect
        from richkd.reporting.report.page import numbers, write_report
        from richkd.reporting.report.verdict import sentences

    if not runs:
        raise ConfigError("A report needs at least one run", got="none", fix="richkd report RUN")
    folder = Path(runs[0]) / "report" if out is None else out
    with json_only(json) as write, folder_lock(folder, f"The folder of the page, {folder},"):
        remove_abandoned(folder)
        result = collect(runs, config, data=data, out=folder, log=log_to_stderr)
        page = write_report(result, folder)
        if json:
            write(numbers(result))
        for line in (*sentences(result), f"page: {page}"):
            Terminal().print(line, soft_wrap=True)
