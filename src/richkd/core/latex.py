"""Text in LaTeX: names are shown as they are, and are never commands."""

from __future__ import annotations

import re

from richkd.core.visible import visible

_SIGNS = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
} | {sign: f"\\{sign}" for sign in "&%$#_{}"}
_SPECIAL = re.compile("[" + re.escape("".join(_SIGNS)) + "]")


def latex(text: object) -> str:
    r"""The text, escaped so that LaTeX typesets it literally, also in a cell of a table.

    Hidden characters are shown by `visible`. Letters beyond ASCII stay, which LaTeX reads as UTF-8. A bracket
    at the start is put into a group, because ``\\`` would take it for an argument.

    Example:
        >>> print(latex("a_b & 5%"), latex(r"\input{x}"), latex("[x]"))
        a\_b \& 5\% \textbackslash{}input\{x\} {[}x]
    """
    plain = _SPECIAL.sub(lambda match: _SIGNS[match[0]], visible(text))
    return f"{{[}}{plain[1:]}" if plain.startswith("[") else plain
