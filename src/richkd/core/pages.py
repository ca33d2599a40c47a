"""Templates of pages and cards, and how they write numbers."""

from __future__ import annotations

import base64
import csv
import io
from collections.abc import Iterable, Sequence
from typing import Protocol

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape


class Bounds(Protocol):
    """Anything with two ends."""

    @property
    def low(self) -> float: ...

    @property
    def high(self) -> float: ...


def environment(package: str) -> Environment:
    """A package's templates; what they are given is escaped in HTML, and a name they lack is an error."""
    made = Environment(
        loader=PackageLoader(package),
        autoescape=select_autoescape(["html"]),
        undefined=StrictUndefined,
        trim_blocks=True,
    )

    def between(interval: Bounds) -> str:
        return f"{100 * interval.low:.1f}–{100 * interval.high:.1f}"

    def number(value: float, digits: int) -> str:
        # A zero has no sign on a page.
        return f"{round(value, digits) + 0.0:.{digits}f}"

    made.filters |= {
        "percent": lambda share: f"{share:.1%}",
        "whole": lambda share: f"{share:.0%}",
        "number": number,
        "between": between,
    }
    made.globals["csv"] = csv_address
    return made


def csv_address(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table as a file that a page carries along: a ``data:`` address of CSV."""
    text = io.StringIO()
    csv.writer(text).writerows([heads, *rows])
    return f"data:text/csv;base64,{base64.b64encode(text.getvalue().encode()).decode('ascii')}"
