"""CSV for spreadsheets: a name is never a formula."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Sequence

from richkd.core.visible import visible

# What spreadsheets calculate, also after spaces, and in the wide forms of East Asian keyboards.
_FORMULA = re.compile(r"\s*[=+\-@\t\r＝＋－＠]")


def cell(value: object) -> str:
    """A value as the text of a cell.

    An apostrophe is put in front of text that a spreadsheet would take for a formula, which is the usual
    defense (OWASP, "CSV injection"). Numbers stay as they are, but text such as "-1" is a name. Hidden
    characters are shown by `visible`. So names are not exact; JSON has the exact names.

    Example:
        >>> cell("=1+1"), cell("@x"), cell("-1"), cell(-0.5), cell("ant")
        ("'=1+1", "'@x", "'-1", '-0.5', 'ant')
    """
    text = str(value)
    formula = not isinstance(value, int | float) and _FORMULA.match(text)
    return f"'{visible(text)}" if formula else visible(text)


def csv_line(cells: Iterable[object]) -> str:
    """One line of CSV, without the line break.

    Example:
        >>> print(csv_line(["ant, wild", "=A1", 0.5]))
        "ant, wild",'=A1,0.5
    """
    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow([cell(value) for value in cells])
    return line.getvalue()


def csv_table(heads: Sequence[object], rows: Iterable[Sequence[object]]) -> str:
    """A table as CSV with line breaks.

    Example:
        >>> csv_table(["model", "top1"], [["student", 0.75]])
        'model,top1\\nstudent,0.75\\n'
    """
    return "".join(f"{csv_line(row)}\n" for row in (heads, *rows))
