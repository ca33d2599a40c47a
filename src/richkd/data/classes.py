"""Compare lists of class names, and convert class names to readable text."""

from __future__ import annotations

from collections.abc import Sequence

from richkd.core.errors import ClassError


def check_same_classes(
    expected: Sequence[str], received: Sequence[str], *, where: str, reference: str = "the training data"
) -> None:
    """Check that two class lists have the same names in the same order.

    Args:
        expected: the class names of the reference.
        received: the class names to check.
        where: the source of ``received``, for messages.
        reference: the source of ``expected``, for messages.

    Raises:
        ClassError: the lists differ; the message contains ``where`` and the first different position.

    Example:
        >>> check_same_classes(["cat", "dog"], ["cat", "dog"], where="the teacher")
        >>> check_same_classes(["cat", "dog"], ["dog", "cat"], where="the teacher")
        Traceback (most recent call last):
        ...
        richkd.core.errors.ClassError: The classes of the teacher must be in the order of the training data
        Got: 2 classes instead of 2; first difference at class 0: 'dog' where 'cat' was expected
        Fix: rename or reorder the classes so that both lists are identical.
    """
    if list(expected) == list(received):
        return
    if sorted(expected) == sorted(received):
        rule = f"The classes of {where} must be in the order of {reference}"
    else:
        rule = f"The classes of {where} must be those of {reference}"
    missing = [name for name in expected if name not in set(received)]
    extra = [name for name in received if name not in set(expected)]
    position = next(
        (i for i, (a, b) in enumerate(zip(expected, received, strict=False)) if a != b),
        min(len(expected), len(received)),
    )

    def at(names: Sequence[str]) -> str:
        return repr(names[position]) if position < len(names) else "nothing"

    got = (
        f"{len(received)} classes instead of {len(expected)}; first difference at class {position}: "
        f"{at(received)} where {at(expected)} was expected"
    )
    if missing:
        got += f"; missing: {', '.join(missing[:5])}{' …' if len(missing) > 5 else ''}"
    if extra:
        got += f"; unknown: {', '.join(extra[:5])}{' …' if len(extra) > 5 else ''}"
    raise ClassError(rule, got=got, fix="rename or reorder the classes so that both lists are identical.")


def clean_name(name: str) -> str:
    """Convert a class name to readable text: underscores become spaces, repeated spaces become one.

    Letter case is kept, because the tokenizers of some CLIP models distinguish ``"Crane"`` from ``"crane"``.

    Example:
        >>> clean_name("aquarium_fish")
        'aquarium fish'
    """
    return " ".join(name.replace("_", " ").split())
