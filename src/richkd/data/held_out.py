"""The split that fusion weights and temperatures are fitted on."""

from __future__ import annotations

from collections.abc import Iterable

# In order of preference. The teacher may have been trained on validation images, so they come second.
HELD_OUT = ("calibration", "val")


def held_out_split(splits: Iterable[str]) -> str | None:
    """The name of the split that fusion weights and temperatures are fitted on.

    Args:
        splits: names of the splits that exist.

    Returns:
        The first name of `HELD_OUT` that exists, or None if the data have no held-out split.

    Example:
        >>> held_out_split(["train", "val", "calibration"]), held_out_split(["train", "test"])
        ('calibration', None)
    """
    names = set(splits)
    return next((name for name in HELD_OUT if name in names), None)
