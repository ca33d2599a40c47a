"""Text in Markdown: names are shown as they are, and are never tags, links, cells or headings."""

from __future__ import annotations

import re

from richkd.core.visible import visible

# A backslash in front of these makes them plain. An underscore inside a word needs none.
_SIGNS = re.compile(r"[\\`*\[\]|~$#]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])|(?<=\])\(")
_ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}
# Addresses that GitHub makes links of without any sign.
_ADDRESSES = re.compile(r"(?i)\b(https?|ftp|mailto|xmpp)(?=:)|\b(www)(?=\.)")
# The starts of lists, rules and underlined headings.
_STARTS = re.compile(r"^(\d{0,9})([-+.)=])(?=\s|$|[-=])")


def markdown(text: object) -> str:
    r"""The text, escaped so that Markdown shows it literally: in a paragraph, heading, list or table cell.

    Hidden characters are shown by `visible`.

    Example:
        >>> print(markdown("a|b"), markdown("[x](y)"), markdown("<img>"), markdown("cifar_resnet8"))
        a\|b \[x\]\(y) &lt;img&gt; cifar_resnet8
    """
    plain = re.sub("[&<>]", lambda match: _ENTITIES[match[0]], visible(text))
    plain = _SIGNS.sub(lambda match: f"\\{match[0]}", plain)
    plain = _ADDRESSES.sub(lambda match: f"{match[0]}\\", plain)
    return _STARTS.sub(r"\1\\\2", plain)
