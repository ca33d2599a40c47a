"""The command ``richkd report``; no logic."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter


def report(
    *runs: Annotated[str, Parameter(help="run folders; the first one's student is what would be shipped")],
    out: Annotated[Path | None, Parameter(help="folder of the page; RUN/report where it is left out")] = None,
    split: Annotated[str, Parameter(help="train, val, test or calibration")] = "test",
    hierarchy: Annotated[Path | None, Parameter(help="file {superclass: [class, …]}")] = None,
    corruptions: Annotated[
        bool, Parameter(negative="", help="15 corruptions at 5 severities, made of these images here")
    ] = False,
    cifar_c: Annotated[
        Path | None, Parameter(help="folder of the published CIFAR-C files, instead of making corruptions")
    ] = None,
    shift: Annotated[
        list[str] | None, Parameter(help="NAME=DIR: other pictures of the same classes; again for more")
    ] = None,
) -> None:
    """Write a page that shows what a student is worth: report.html, report.md and summary.json.

    For example:

    richkd report runs/small runs/control --corruptions --shift sketches=sketches/
    """
    from richkd.cli.evaluate import shifts_of
    from richkd.core.errors import ConfigError
    from richkd.evaluate.run import chosen_corruptions
    from richkd.reporting.report.collect import collect
    from richkd.reporting.report.page import write_report
    from richkd.reporting.report.verdict import sentences

    if not runs:
        raise ConfigError("Name what to report on", got="no run", fix="richkd report RUN")
    result = collect(
        runs,
        split=split,
        hierarchy=hierarchy,
        corruptions=chosen_corruptions(test=corruptions, validation=False),
        published=cifar_c,
        shifts=shifts_of(shift or []),
        log=lambda message: print(message, file=sys.stderr, flush=True),
    )
    page = write_report(result, Path(runs[0]) / "report" if out is None else out)
    for sentence in sentences(result):
        print(sentence)
    print(f"page: {page}")
