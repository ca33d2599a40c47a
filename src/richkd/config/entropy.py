"""Read the setting of a target's entropy: a word or a number of nats."""

from __future__ import annotations

import math

OWN, MATCH_TEACHER = "own", "match-teacher"


def read_entropy(value: object) -> object:
    """The value of ``fusion.entropy``, if it is one of the two words or a positive number.

    Raises:
        ValueError: it is anything else.

    Example:
        >>> read_entropy("match-teacher"), read_entropy(0.5), read_entropy("0.5")
        ('match-teacher', 0.5, 0.5)
    """
    if value is None or value in (OWN, MATCH_TEACHER):
        return value
    try:
        nats = float(value) if isinstance(value, int | float | str) and not isinstance(value, bool) else 0.0
    except (ValueError, OverflowError):
        nats = 0.0
    if not 0 < nats < math.inf:
        raise ValueError(f"it must be {OWN}, {MATCH_TEACHER}, or a positive number of nats")
    return nats
