"""Exceptions for errors that the user can fix; each message has the rule, the received value and the fix."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from richkd.core.visible import visible_list

T = TypeVar("T")

# Names in a hint, the similarity that they need, and how much less than the best one they may have.
NAMED, SIMILAR, WINDOW = 3, 0.5, 0.25


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
        self.rule = visible_list(rule)
        self.got, self.fix = (None if part is None else visible_list(part) for part in (got, fix))
        self.problems: tuple[RichKDError, ...] = ()
        super().__init__(self.rule)

    def __str__(self) -> str:
        if self.problems:
            numbered = (f"{number}. {problem}" for number, problem in enumerate(self.problems, start=1))
            return "\n\n".join([self.rule, *numbered])
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


class ImageError(DataError):
    """An image, or several images of a split, cannot be read.

    Example:
        >>> issubclass(ImageError, DataError)
        True
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


class ProcessError(RichKDError):
    """Another process of a run that several processes compute together has ended or does not answer.

    Example:
        >>> print(ProcessError("All processes of a run must go on", got="process 1 was killed"))
        All processes of a run must go on
        Got: process 1 was killed
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


class Problems:
    """Collects the errors of independent inputs, so that all of them are reported at once.

    Args:
        kind: class of the errors that are collected; others are raised at once.

    Example:
        >>> def refuse(name):
        ...     raise DataError(f"Folder {name} must exist", fix="check the path.")
        >>> problems = Problems()
        >>> problems.attempt(refuse, "a"), problems.attempt(len, "abc"), problems.attempt(refuse, "b")
        (None, 3, None)
        >>> try:
        ...     problems.refuse_all()
        ... except DataError as error:
        ...     print(error)
        2 problems must be corrected
        <BLANKLINE>
        1. Folder a must exist
        Fix: check the path.
        <BLANKLINE>
        2. Folder b must exist
        Fix: check the path.
    """

    def __init__(self, kind: type[RichKDError] = RichKDError) -> None:
        self.kind = kind
        self.errors: list[RichKDError] = []

    def attempt(self, function: Callable[..., T], *args: Any, **options: Any) -> T | None:
        """The result of a call, or None if it raised an error of the kind, which is then collected."""
        try:
            return function(*args, **options)
        except self.kind as error:
            # Several inputs may need the same missing file.
            if str(error) not in map(str, self.errors):
                self.errors.append(error)
            return None

    def refuse_all(self) -> None:
        """Raise the collected errors as one; a single one as it is. Do nothing without errors.

        Raises:
            RichKDError: of the class of all errors, if they have the same class.
        """
        if not self.errors:
            return
        if len(self.errors) == 1:
            raise self.errors[0]
        kinds = {type(error) for error in self.errors}
        kind = kinds.pop() if len(kinds) == 1 else self.kind
        error = kind(f"{len(self.errors)} problems must be corrected")
        error.problems = tuple(self.errors)
        raise error


def nearest(name: str, known: Iterable[str], listing: str = "") -> str:
    """A hint for a mistyped name: at most `NAMED` similar names, or how to list all names.

    Letter case does not matter. Up to `NAMED` known names are written out if none is similar.

    Args:
        name: the name that is not known.
        known: the names that are.
        listing: a sentence that says where all names are listed.

    Example:
        >>> nearest("resnet8", ["resnet18", "vgg11"])
        "Did you mean 'resnet18'?"
        >>> nearest("xyz", ["b", "a"])
        'Known: a, b'
        >>> nearest("xyz", ["ce", "kd", "at", "dkd"], "`richkd settings method.name` lists all.")
        '4 names are known. `richkd settings method.name` lists all.'
    """
    names = sorted(set(known))
    close = _similar(name, names)
    if close:
        return "Did you mean " + " or ".join(f"'{match}'" for match in close) + "?"
    if len(names) <= NAMED:
        return f"Known: {', '.join(names)}" if names else "No name is known."
    return f"{len(names)} names are known.{' ' * bool(listing)}{listing}"


def _similar(name: str, names: list[str]) -> list[str]:
    """The names most similar to ``name``, the best one first."""
    asked = name.casefold()
    scores: dict[str, float] = {}
    for known in names:
        folded = known.casefold()
        matcher = difflib.SequenceMatcher(None, folded, asked)
        # The same letters in another order or case, or the name without its prefix.
        if sorted(asked) == sorted(folded) or folded.endswith(f"_{asked}"):
            scores[known] = 1.0
        elif matcher.real_quick_ratio() >= SIMILAR and matcher.quick_ratio() >= SIMILAR:
            scores[known] = matcher.ratio()
    enough = max([SIMILAR, *(score - WINDOW for score in scores.values())])
    best = sorted(scores, key=lambda known: (-scores[known], known))
    return [known for known in best if scores[known] >= enough][:NAMED]
