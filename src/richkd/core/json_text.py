"""JSON text: exact names, and no character that a terminal or an editor would obey."""

from __future__ import annotations

import json
import re
from typing import Any

from richkd.core.visible import visible

_OUTSIDE_ASCII = re.compile(r"[^\x00-\x7e]")


def to_json(value: Any, indent: int | None = None) -> str:
    """The JSON text of a value. Letters of all scripts stay readable; hidden characters are ``\\uXXXX``.

    JSON itself escapes control characters below 32 only. The text is read back exactly.

    Args:
        value: what to write.
        indent: number of spaces of each level; None writes one line.

    Example:
        >>> to_json({"class": "Käfer\\u202e\\x9b"}), json.loads(to_json("\\u202e")) == "\\u202e"
        ('{"class": "Käfer\\\\u202e\\\\u009b"}', True)
    """
    return _OUTSIDE_ASCII.sub(_escaped, json.dumps(value, indent=indent, ensure_ascii=False))


def _escaped(match: re.Match[str]) -> str:
    return match[0] if visible(match[0]) == match[0] else json.dumps(match[0])[1:-1]
