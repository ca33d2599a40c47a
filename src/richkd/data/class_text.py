"""Normal form of class names, and code points where two names look alike."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence

from richkd.core.errors import ClassError, nearest

# ASCII letters and digits that many fonts draw alike.
LOOKALIKES = str.maketrans({"I": "l", "1": "l", "|": "l", "0": "O"})

# Categories of characters without a shape: format and control characters.
HIDDEN = ("Cf", "Cc")


def normalized(name: str) -> str:
    """A class name in Unicode normal form C, in which names are read and compared.

    File systems and editors write an accented letter as one code point or as a letter and an accent (forms C
    and D of Unicode Standard Annex 15).

    Example:
        >>> len("e\\u0301"), len(normalized("e\\u0301"))
        (2, 1)
    """
    return unicodedata.normalize("NFC", name)


def all_normalized(names: Sequence[str], where: str) -> tuple[str, ...]:
    """The names in normal form C, which must still differ.

    Args:
        names: different names of classes.
        where: what has these classes, for messages.

    Raises:
        ClassError: two names are the same text in two normal forms; the message has their code points.

    Example:
        >>> try:
        ...     all_normalized(["caf\\u00e9", "cafe\\u0301"], "train")
        ... except ClassError as error:
        ...     error.got.partition(" instead of ")[2]
        'U+00E9 LATIN SMALL LETTER E WITH ACUTE'
    """
    first: dict[str, str] = {}
    for name in names:
        other = first.setdefault(normalized(name), name)
        if other != name:
            raise ClassError(
                f"Class names of {where} must differ in more than their Unicode normal form",
                got=f"'{other}' and '{name}', which differ at {_place(name, other)}",
                fix="merge these classes, for example after convmv -f utf8 -t utf8 --nfc.",
            )
    return tuple(first)


def is_number(name: str) -> bool:
    """Whether a class name is a whole number of at most 19 digits, as labels without names are.

    Example:
        >>> is_number("10"), is_number("\u00b2"), is_number("1" * 20)
        (True, False, False)
    """
    # Digits such as ² are no numbers for `int`.
    return name.isdecimal() and len(name) < 20


def difference(name: str, other: str) -> str:
    """Where two different names that look alike differ, as code points; empty if they do not look alike.

    Names look alike if they differ only in characters without a shape (spaces at the end, zero-width
    characters), in characters outside of ASCII, such as a Cyrillic а, or in l, I, 1, O and 0.

    Example:
        >>> difference("cat ", "cat")
        'character 4: U+0020 SPACE instead of the end'
        >>> difference("c\\u0430t", "cat")
        'character 2: U+0430 CYRILLIC SMALL LETTER A instead of U+0061 LATIN SMALL LETTER A'
        >>> difference("cat", "dog")
        ''
    """
    if name == other:
        return ""
    shapes, others = _shapes(name), _shapes(other)
    similar = len(shapes) == len(others) and all(
        a == b or not (a.isascii() and b.isascii()) for a, b in zip(shapes, others, strict=True)
    )
    same = sum(a == b for a, b in zip(shapes, others, strict=False))
    # Two words of other scripts differ everywhere; a name that looks alike has some letters in common.
    return _place(name, other) if similar and (same or len(shapes) == 1 or shapes == others) else ""


def hint_at_class(name: str, class_names: Iterable[str]) -> str:
    """A hint at the classes that an unknown name may mean, with code points if one of them looks alike.

    Example:
        >>> hint_at_class("dg", ["cat", "dog"])
        "Did you mean 'dog'?"
        >>> hint_at_class("dog\\u200b", ["cat", "dog"])
        "Did you mean 'dog'? It differs at character 4: the end instead of U+200B ZERO WIDTH SPACE."
    """
    known = list(class_names)
    lookalike = next((one for one in known if difference(one, name)), None)
    if lookalike is not None:
        return f"Did you mean '{lookalike}'? It differs at {difference(lookalike, name)}."
    return nearest(name, known, f"The first are {', '.join(known[:3])}; write them as the data do.")


def _shapes(name: str) -> str:
    """The characters that can be seen, with one character for those that look alike in ASCII."""
    words = "".join(
        c for c in normalized(name) if c.isspace() or unicodedata.category(c) not in HIDDEN
    ).split()
    return " ".join(words).translate(LOOKALIKES)


def _place(name: str, other: str) -> str:
    """The first place where two names differ."""
    place = next(
        (i for i, (a, b) in enumerate(zip(name, other, strict=False)) if a != b), min(len(name), len(other))
    )
    return f"character {place + 1}: {_code_point(name, place)} instead of {_code_point(other, place)}"


def _code_point(name: str, place: int) -> str:
    if place >= len(name):
        return "the end"
    return f"U+{ord(name[place]):04X} {unicodedata.name(name[place], 'without a name')}"
