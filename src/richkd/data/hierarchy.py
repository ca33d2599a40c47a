"""Which superclass each class belongs to, from a file that the user gives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from richkd.core.errors import ClassError, nearest
from richkd.core.user_files import parse_file
from richkd.data.cifar100 import SUPERCLASSES
from richkd.data.classes import clean_name


@dataclass(frozen=True)
class Hierarchy:
    """Superclasses in the file's order, and the position of each class's own among them."""

    superclasses: tuple[str, ...]
    superclass_of_C: tuple[int, ...]

    def names(self) -> list[str]:
        """The superclass of each class, by name."""
        return [self.superclasses[place] for place in self.superclass_of_C]


def known_hierarchy(class_names: Sequence[str]) -> Hierarchy | None:
    """The hierarchy that is built in for these classes: CIFAR-100's, whatever the order; else None."""
    place_of = {clean_name(name): place for place, name in enumerate(class_names)}
    members = {clean_name(name) for listed in SUPERCLASSES.values() for name in listed}
    if members != place_of.keys():
        return None
    above = {clean_name(name): place for place, listed in enumerate(SUPERCLASSES.values()) for name in listed}
    return Hierarchy(tuple(SUPERCLASSES), tuple(above[clean_name(name)] for name in class_names))


def read_hierarchy(path: Path, class_names: Sequence[str]) -> Hierarchy:
    """Read ``{superclass: [class, …]}`` from YAML or JSON; each class of the data is in one superclass.

    Names of classes may have blanks for underscores.

    Raises:
        ClassError: the file cannot be read, or has another form; a superclass without classes; a class that
            is unknown, twice or missing.
    """
    result = parse_file(path, ClassError, "The hierarchy", "{superclass: [class, …]}")
    form = "write superclass: [class, class, …] for each."
    if not isinstance(result, dict) or not result:
        raise ClassError(f"{path} must map superclasses to classes", got=repr(result)[:80], fix=form)
    place_of = {clean_name(name): place for place, name in enumerate(class_names)}
    owner: dict[int, int] = {}
    for number, (superclass, members) in enumerate(result.items()):
        if not isinstance(members, list) or not members:
            raise ClassError(
                f"Superclass '{superclass}' of {path} must list its classes", got=repr(members), fix=form
            )
        for member in members:
            place = place_of.get(clean_name(str(member)))
            if place is None:
                raise ClassError(
                    f"{path} names a class that the data do not have",
                    got=f"{str(member)!r} in '{superclass}'",
                    fix=nearest(str(member), class_names),
                )
            if place in owner:
                first = list(result)[owner[place]]
                raise ClassError(
                    f"A class belongs to one superclass: '{class_names[place]}' of {path} has two",
                    got=f"'{first}' and '{superclass}'",
                    fix="take it out of one of them.",
                )
            owner[place] = number
    missing = [name for place, name in enumerate(class_names) if place not in owner]
    if missing:
        raise ClassError(
            f"{path} must put every class into a superclass",
            got=f"{len(missing)} in none, first '{missing[0]}'",
            fix="add them.",
        )
    return Hierarchy(tuple(map(str, result)), tuple(owner[place] for place in range(len(class_names))))
