"""Text in LaTeX is typeset literally."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from richkd.core.latex import latex
from richkd.core.visible import visible

# What the text may contain after escaping: plain characters, escaped signs, and named signs.
TOKENS = re.compile(r"(\\[&%$#_{}]|\\text[a-z]+\{\}|[^\\&%$#_{}~^<>|\"])*")
SIGNS = {
    "textbackslash": "\\", "textasciitilde": "~", "textasciicircum": "^",
    "textless": "<", "textgreater": ">", "textbar": "|", "textquotedbl": '"',
}  # fmt: skip


def back(text: str) -> str:
    """The text that LaTeX typesets."""
    text = re.sub(r"^\{\[\}", "[", text)
    return re.sub(r"\\(?:(text[a-z]+)\{\}|(.))", lambda m: SIGNS[m[1]] if m[1] else m[2], text)


@given(st.text())
def test_every_sign_is_typeset_as_it_is(text: str) -> None:
    escaped = latex(text)
    assert back(escaped) == visible(text)
    assert TOKENS.fullmatch(escaped.removeprefix("{[}"))
