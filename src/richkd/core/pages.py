"""Jinja templates of reports and model cards, and their number formats."""

from __future__ import annotations

import base64
import csv
import io
from collections.abc import Iterable, Sequence
from typing import Protocol

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape


class Bounds(Protocol):
    """Anything with a lower and an upper end, such as `richkd.metrics.intervals.Interval`.

    Example:
        >>> from types import SimpleNamespace
        >>> bounds: Bounds = SimpleNamespace(low=0.71, high=0.75)
        >>> bounds.low, bounds.high
        (0.71, 0.75)
    """

    @property
    def low(self) -> float: ...

    @property
    def high(self) -> float: ...


def environment(package: str) -> Environment:
    """The Jinja environment of the templates in a package's folder ``templates``.

    Values are escaped in HTML templates, and an undefined name raises an error. Filters: ``percent`` (one
    decimal), ``whole`` (percent without decimals), ``number`` (fixed decimals) and ``between`` (an interval
    in percent). Global function: ``csv`` (`csv_address`).

    Args:
        package: name of the package that has the templates.

    Example:
        >>> template = environment("richkd.training").from_string("{{ x | percent }}, {{ x | number(2) }}")
        >>> template.render(x=0.5)
        '50.0%, 0.50'
    """
    result = Environment(
        loader=PackageLoader(package),
        autoescape=select_autoescape(["html"]),
        undefined=StrictUndefined,
        trim_blocks=True,
    )

    def between(interval: Bounds) -> str:
        return f"{100 * interval.low:.1f}–{100 * interval.high:.1f}"

    def number(value: float, digits: int) -> str:
        # Adding 0.0 converts -0.0 to 0.0, so that a rounded zero is written without a sign.
        return f"{round(value, digits) + 0.0:.{digits}f}"

    result.filters |= {
        "percent": lambda share: f"{share:.1%}",
        "whole": lambda share: f"{share:.0%}",
        "number": number,
        "between": between,
    }
    result.globals["csv"] = csv_address
    return result


def csv_address(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table as a ``data:`` URL of CSV, so that a page can offer it as a download without a separate file.

    Example:
        >>> url = csv_address(["model", "top1"], [["student", 0.75]])
        >>> base64.b64decode(url.split(",")[1]).decode().split()
        ['model,top1', 'student,0.75']
    """
    text = io.StringIO()
    csv.writer(text).writerows([heads, *rows])
    return f"data:text/csv;base64,{base64.b64encode(text.getvalue().encode()).decode('ascii')}"
