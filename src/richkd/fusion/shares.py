"""Shares of the teachers in a fusion."""

from __future__ import annotations


def equal_shares(num_teachers: int) -> tuple[float, ...]:
    """The same share for each teacher; they sum to one.

    Example:
        >>> equal_shares(2)
        (0.5, 0.5)
    """
    return (1 / num_teachers,) * num_teachers
