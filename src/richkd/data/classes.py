"""Class names: how a reader writes them, and lists of them that must be equal."""

from __future__ import annotations

from collections.abc import Sequence

from richkd.core.errors import ClassError


def check_same_classes(
    expected: Sequence[str], received: Sequence[str], *, where: str, reference: str = "the training data"
) -> None:
    """Refuse two class lists that differ in length, names or order.

    Raises:
        ClassError: naming ``where`` and the first position at which the two lists differ.
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
    """A class name as a reader would write it: underscores become blanks, blanks are collapsed.

    ``"aquarium_fish"`` becomes ``"aquarium fish"``. Letter case is kept, for CLIP models whose
    tokenizer tells ``"Crane"`` from ``"crane"``.
    """
    return " ".join(name.replace("_", " ").split())
