"""Marks of settings in `schema.py`: what may differ between the start of a run and its resuming.

A setting without a mark changes the numbers of a run, so a run is resumed with the same value only.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum


class WhenResumed(Enum):
    """What a marked setting must have in common with the setting that the run was started with.

    Example:
        >>> WhenResumed.FREE.value
        'no number depends on it'
    """

    FREE = "no number depends on it"
    FILES = "it names files, whose content must be the same"
    IMAGES = "it names images, whose content must be the same"
    LENGTH = "the learning rate is planned anew"


def without_numbers(dotted: str) -> str:
    """The name of a setting in the schema, without the numbers of list items.

    Example:
        >>> without_numbers("teachers.2.weights")
        'teachers.weights'
    """
    return ".".join(part for part in dotted.split(".") if not part.isdecimal())


def flattened(tree: object, prefix: str = "") -> Iterator[tuple[str, object]]:
    """Nested settings as pairs of dotted name and value; items of a list of sections count from 1.

    Example:
        >>> dict(flattened({"teachers": [{"name": "resnet18"}], "out": "runs/small"}))
        {'teachers.1.name': 'resnet18', 'out': 'runs/small'}
    """
    items: list[tuple[str, object]]
    if isinstance(tree, dict):
        items = [(str(key), inner) for key, inner in tree.items()]
    elif isinstance(tree, list | tuple) and all(isinstance(item, dict) for item in tree):
        items = [(str(number), item) for number, item in enumerate(tree, start=1)]
    else:
        yield prefix, tree
        return
    for name, inner in items:
        yield from flattened(inner, f"{prefix}.{name}" if prefix else name)
