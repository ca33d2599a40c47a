"""Exceptions for errors that the user can fix; each message has the rule, the received value and the fix."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from richkd.core.visible import visible

# What separates the items of a list in a message.
ITEM = "\n  "


class RichKDError(Exception):
    """Base class of all errors that the user can fix; the command line prints them without a stack trace.

    Names in the message are shown by `visible`, so none of them looks like a line of the message. The items
    of a list are lines that start with two spaces.

    Args:
        rule: the rule that was broken, with the file, class or argument concerned.
        got: what was received instead.
        fix: what the user can do.

    Example:
        >>> print(RichKDError("Argument 'k' must be at least 1", got="0", fix="use 1 or 5."))
        Argument 'k' must be at least 1
        Got: 0
        Fix: use 1 or 5.
    """

    def __init__(self, rule: str, *, got: str | None = None, fix: str | None = None) -> None:
        self.rule = _shown(rule)
        self.got, self.fix = (None if part is None else _shown(part) for part in (got, fix))
        super().__init__(self.rule)

    def __str__(self) -> str:
        parts = [self.rule, f"Got: {self.got}" if self.got else "", f"Fix: {self.fix}" if self.fix else ""]
        return "\n".join(part for part in parts if part)


class ConfigError(RichKDError):
    """A setting does not exist, or its value is not allowed.

    Example:
        >>> print(ConfigError("Argument 'bins' must be at least 1", got="0"))
        Argument 'bins' must be at least 1
        Got: 0
    """


class DataError(RichKDError):
    """A data set cannot be opened, an image cannot be read, or arrays do not belong to the same images.

    Example:
        >>> print(DataError("Image cats/1.png must be readable", got="truncated file"))
        Image cats/1.png must be readable
        Got: truncated file
    """


class ClassError(DataError):
    """Class names or their order differ between two sources that must have the same classes.

    Example:
        >>> issubclass(ClassError, DataError)
        True
    """


class WorkerError(RichKDError):
    """A process that reads images ended, for example because the memory of the machine was full.

    Example:
        >>> print(WorkerError("The processes that read images must not end", fix="use --train.workers 0."))
        The processes that read images must not end
        Fix: use --train.workers 0.
    """


class ModelError(RichKDError):
    """A model cannot be built, or weights do not fit it.

    Example:
        >>> print(ModelError("No model is called 'resnet19' (the student)", fix="Did you mean 'resnet18'?"))
        No model is called 'resnet19' (the student)
        Fix: Did you mean 'resnet18'?
    """


class ClipError(RichKDError):
    """A CLIP model, its prompts or its stored outputs cannot be used.

    Example:
        >>> print(ClipError("A prompt template must contain {}", got="'a photo'"))
        A prompt template must contain {}
        Got: 'a photo'
    """


class CacheError(RichKDError):
    """The cached outputs of a teacher cannot be used or cannot be stored.

    Example:
        >>> print(CacheError("The cache must belong to this data set", got="another class list"))
        The cache must belong to this data set
        Got: another class list
    """


class CheckpointError(RichKDError):
    """A checkpoint or run folder cannot be written, read or resumed.

    Example:
        >>> print(CheckpointError("last.ckpt could not be written (2,000 bytes)", got="disk full"))
        last.ckpt could not be written (2,000 bytes)
        Got: disk full
    """


class DeviceMemoryError(RichKDError):
    """A training step does not fit in the memory of the device.

    Example:
        >>> print(DeviceMemoryError("A step must fit in memory", fix="use a smaller batch."))
        A step must fit in memory
        Fix: use a smaller batch.
    """


class NonFiniteError(RichKDError):
    """A loss term, a score or another number is NaN or infinite.

    Example:
        >>> print(NonFiniteError("Loss 'logits' must be finite", got="NaN at step 7"))
        Loss 'logits' must be finite
        Got: NaN at step 7
    """


def _shown(part: str) -> str:
    return ITEM.join(visible(item) for item in str(part).split(ITEM))


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint for a mistyped name: similar names, or all known names if there are at most 30.

    Example:
        >>> nearest("resnet8", ["resnet18", "vgg11"])
        "Did you mean 'resnet18'?"
        >>> nearest("xyz", ["b", "a"])
        'Known: a, b'
    """
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    if close:
        return "Did you mean " + " or ".join(f"'{match}'" for match in close) + "?"
    return f"Known: {', '.join(names)}" if len(names) <= 30 else f"{len(names)} names are known."
