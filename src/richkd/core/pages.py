"""Jinja templates of reports and model cards, and their number formats."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any, Protocol

from jinja2 import Environment, PackageLoader, StrictUndefined, pass_eval_context, select_autoescape
from jinja2.nodes import EvalContext
from markupsafe import Markup, escape

from richkd.core.markdown import markdown
from richkd.core.spreadsheet import csv_table
from richkd.core.visible import visible

# What a page may load: nothing from elsewhere, and no form or base address.
POLICY = "default-src 'none'; base-uri 'none'; form-action 'none'; img-src data:; style-src 'unsafe-inline'"


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


@cache
def environment(package: str) -> Environment:
    """The Jinja environment of the templates in a package's folder ``templates``, which compiles each once.

    Text is escaped for HTML, or for Markdown (`markdown`) in templates whose names end in ``.md``, and hidden
    characters are shown by `visible`. An undefined name raises an error. Filters: ``percent`` (one decimal),
    ``whole`` (percent without decimals), ``number`` (fixed decimals), ``between`` (an interval in percent)
    and ``lines`` (text whose line breaks stay, for HTML). Global functions: ``csv`` (`csv_address`) and
    ``policy`` (`security_policy`), which every page calls in its head.

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
        finalize=_shown,
    )

    result.filters |= {
        "percent": lambda share: f"{share:.1%}",
        "whole": lambda share: f"{share:.0%}",
        "number": _number,
        "between": _between,
        "lines": _lines,
    }
    result.globals |= {"csv": csv_address, "policy": security_policy}
    return result


def security_policy(*, scripts: bool = False) -> Markup:
    """The tag in the head of a page that forbids the browser to load or send anything.

    Args:
        scripts: whether the page has scripts of its own.

    Example:
        >>> security_policy().startswith("<meta http-equiv=")
        True
    """
    policy = f"{POLICY}; script-src 'unsafe-inline'" if scripts else POLICY
    return Markup('<meta http-equiv="Content-Security-Policy" content="{}">').format(Markup(policy))


def csv_address(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table as a ``data:`` URL of CSV, so that a page can offer it as a download without a separate file.

    Example:
        >>> url = csv_address(["model", "top1"], [["student", 0.75]])
        >>> base64.b64decode(url.split(",")[1]).decode().split()
        ['model,top1', 'student,0.75']
    """
    return f"data:text/csv;base64,{base64.b64encode(csv_table(heads, rows).encode()).decode('ascii')}"


@pass_eval_context
def _shown(context: EvalContext, value: Any) -> Any:
    """The value of an expression in a template, before HTML is escaped. Markup was made by a template."""
    if not isinstance(value, str) or isinstance(value, Markup):
        return value
    return visible(value) if context.autoescape else markdown(value)


def _lines(text: str) -> Markup:
    return Markup("\n").join(escape(visible(line)) for line in text.split("\n"))


def _between(interval: Bounds) -> str:
    return f"{100 * interval.low:.1f}–{100 * interval.high:.1f}"


def _number(value: float, digits: int) -> str:
    # Adding 0.0 converts -0.0 to 0.0, so that a rounded zero is written without a sign.
    return f"{round(value, digits) + 0.0:.{digits}f}"
