"""What can go wrong, as types whose messages say which rule broke, what was received, and how to mend it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence


class RichKDError(Exception):
    """Anything the user can mend. The command line prints its message without a stack trace.

    Every message has three parts: the rule that was broken (with the file, class or argument it
    concerns), what was received instead, and a way out.
    """

    def __init__(self, rule: str, *, got: str | None = None, fix: str | None = None) -> None:
        self.rule, self.got, self.fix = rule, got, fix
        parts = [rule, f"Got: {got}" if got else None, f"Fix: {fix}" if fix else None]
        super().__init__("\n".join(part for part in parts if part))


class ConfigError(RichKDError):
    """A setting that does not exist, or a value that it does not take."""


class DataError(RichKDError):
    """A data set that cannot be opened, or an image in it that cannot be read."""


class ClassError(DataError):
    """Class names or their order differ between two things that must share them."""


class ModelError(RichKDError):
    """A model that cannot be built, or weights that do not fit it."""


class ClipError(RichKDError):
    """A CLIP model, its prompts or its stored outputs cannot be used."""


class BankError(RichKDError):
    """Stored outputs of a teacher that cannot be used, or cannot be kept."""


class CheckpointError(RichKDError):
    """A checkpoint or run folder that cannot be written, read or continued."""


class DeviceMemoryError(RichKDError):
    """A step that does not fit in memory."""


class NonFiniteError(RichKDError):
    """NaN or infinity in a loss term, named with its step and its images."""


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint ``Did you mean 'x'?`` for a mistyped name, or the list of known names where it is short."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    if close:
        return "Did you mean " + " or ".join(f"'{match}'" for match in close) + "?"
    return f"Known: {', '.join(names)}" if len(names) <= 30 else f"{len(names)} names are known."


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
