"""The superclass of each class: read from a file, or built in for CIFAR-100."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from richkd.core.errors import ClassError
from richkd.core.user_files import parse_file
from richkd.data.cifar100 import SUPERCLASSES
from richkd.data.class_text import hint_at_class
from richkd.data.classes import clean_name

FORM = "write superclass: [class, class, …] for each superclass."


@dataclass(frozen=True)
class Hierarchy:
    """Superclasses, and the superclass of each class.

    Args:
        superclasses: names, in the order of the file.
        superclass_of_C: position in ``superclasses`` for each class, in label order.

    Example:
        >>> Hierarchy(("insect", "mammal"), (0, 1, 1)).names()
        ['insect', 'mammal', 'mammal']
    """

    superclasses: tuple[str, ...]
    superclass_of_C: tuple[int, ...]

    def names(self) -> list[str]:
        """The name of the superclass of each class, in label order."""
        return [self.superclasses[place] for place in self.superclass_of_C]


def known_hierarchy(class_names: Sequence[str]) -> Hierarchy | None:
    """The built-in hierarchy for these classes: that of CIFAR-100, in any order of classes, else None.

    Example:
        >>> known_hierarchy(["ant", "bee"]) is None
        True
        >>> from richkd.data.cifar100 import SUPERCLASSES
        >>> names = sorted(name for members in SUPERCLASSES.values() for name in members)
        >>> known_hierarchy(names).names()[:2]
        ['fruit_and_vegetables', 'fish']
    """
    place_of = {clean_name(name): place for place, name in enumerate(class_names)}
    members = {clean_name(name) for listed in SUPERCLASSES.values() for name in listed}
    if members != place_of.keys():
        return None
    above = {clean_name(name): place for place, listed in enumerate(SUPERCLASSES.values()) for name in listed}
    return Hierarchy(tuple(SUPERCLASSES), tuple(above[clean_name(name)] for name in class_names))


def superclasses_of(class_names: Sequence[str], path: Path | None) -> Hierarchy | None:
    """The hierarchy for wrong predictions: that of a file, else the built-in one; None if there is none.

    Raises:
        ClassError: see `read_hierarchy` and `refuse_ungrouped`.

    Example:
        >>> superclasses_of(("ant", "bee"), None) is None
        True
    """
    if path is None:
        return known_hierarchy(class_names)
    hierarchy = read_hierarchy(path, class_names)
    refuse_ungrouped(hierarchy, f" ({path})")
    return hierarchy


def refuse_ungrouped(hierarchy: Hierarchy, where: str = "") -> None:
    """Refuse a hierarchy in which no class is more similar to a second one than to a third one.

    Args:
        hierarchy: superclass of each class.
        where: where it was written, for the message.

    Raises:
        ClassError: there is only one superclass, or none has several classes.

    Example:
        >>> refuse_ungrouped(Hierarchy(("insect", "mammal"), (0, 1, 1)))
    """
    classes, used = len(hierarchy.superclass_of_C), len(set(hierarchy.superclass_of_C))
    if not 1 < used < classes:
        raise ClassError(
            f"A hierarchy must have several superclasses, at least one of them with several classes{where}",
            got=f"{used} for {classes:,} classes",
            fix="put similar classes into one superclass and the others into different superclasses.",
        )


def read_hierarchy(path: str | Path, class_names: Sequence[str]) -> Hierarchy:
    """Read a hierarchy ``{superclass: [class, …]}`` from a YAML or JSON file.

    Every class of the data must be in exactly one superclass. Names of classes may have spaces instead of
    underscores.

    Args:
        path: the file.
        class_names: classes of the data, in label order.

    Raises:
        ClassError: the file cannot be read or has another form; a superclass has no classes; a class is
            unknown, missing, or in two superclasses.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = Path(folder) / "superclasses.yaml"
        ...     length = file.write_text("{insect: [ant], mammal: [cow, brown bear]}")
        ...     read_hierarchy(file, ["ant", "brown_bear", "cow"]).superclass_of_C
        (0, 1, 1)
    """
    path = Path(path)
    result = parse_file(path, ClassError, "The hierarchy", "{superclass: [class, …]}")
    if not isinstance(result, dict) or not result:
        raise ClassError(f"{path} must map superclasses to classes", got=repr(result)[:80], fix=FORM)
    superclass_of = _superclass_of(path, result, class_names)
    missing = [name for place, name in enumerate(class_names) if place not in superclass_of]
    if missing:
        raise ClassError(
            f"{path} must assign every class to a superclass",
            got=f"{len(missing)} without a superclass, the first is '{missing[0]}'",
            fix="add them.",
        )
    return Hierarchy(
        tuple(map(str, result)), tuple(superclass_of[place] for place in range(len(class_names)))
    )


def _superclass_of(path: Path, listed: Mapping[Any, Any], class_names: Sequence[str]) -> dict[int, int]:
    """Position of the superclass by position of the class, for all classes in the file."""
    place_of = {clean_name(name): place for place, name in enumerate(class_names)}
    superclass_of: dict[int, int] = {}
    for number, (superclass, members) in enumerate(listed.items()):
        if not isinstance(members, list) or not members:
            raise ClassError(
                f"Superclass '{superclass}' of {path} must list its classes", got=repr(members), fix=FORM
            )
        for member in members:
            place = place_of.get(clean_name(str(member)))
            if place is None:
                raise ClassError(
                    f"{path} must list only classes of the data",
                    got=f"{str(member)!r} in '{superclass}'",
                    fix=hint_at_class(str(member), class_names),
                )
            if place in superclass_of:
                first = list(listed)[superclass_of[place]]
                raise ClassError(
                    f"A class can have only one superclass: '{class_names[place]}' of {path}",
                    got=f"'{first}' and '{superclass}'",
                    fix="remove it from one of them.",
                )
            superclass_of[place] = number
    return superclass_of
