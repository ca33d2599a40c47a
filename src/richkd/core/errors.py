"""What can go wrong, as types whose messages say which rule broke, what was received, and how to mend it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


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


class CacheError(RichKDError):
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
