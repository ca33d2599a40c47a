"""The option ``--json``: one JSON document on standard output, and everything else on standard error."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, redirect_stdout
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from richkd.core.errors import ConfigError
from richkd.core.json_text import to_json

Json = Annotated[bool, Parameter(name="--json", help="print all figures as JSON", negative="")]


@contextmanager
def json_only(wanted: bool) -> Iterator[Callable[[Any], None]]:
    """Context in which messages go to standard error if JSON is wanted, and otherwise as usual.

    It yields a function that prints a value as JSON on standard output. A path is a file of JSON that the
    command wrote, which is printed as it is.

    Args:
        wanted: the option ``--json``.

    Example:
        >>> with json_only(True) as write:
        ...     print("1 of 2 done")  # to standard error
        ...     write({"top1": 0.5})
        {
         "top1": 0.5
        }
    """
    results = sys.stdout

    def write(value: Any) -> None:
        text = value.read_text(encoding="utf-8") if isinstance(value, Path) else to_json(value, indent=1)
        print(text.rstrip("\n"), file=results)

    with redirect_stdout(sys.stderr) if wanted else nullcontext():
        yield write


def refuse_json_of_checks(json: bool, check: bool) -> None:
    """Refuse ``--json`` with ``--check``, which computes no figures.

    Raises:
        ConfigError: both are given.
    """
    if json and check:
        raise ConfigError("--json prints figures, and --check computes none", got="both", fix="remove one.")
