"""Compare, read and check lists of class names, and convert class names to readable text."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from richkd.core.errors import ClassError, DataError
from richkd.core.home import expanded
from richkd.core.regular_files import read_regular
from richkd.core.structured import LIMIT
from richkd.core.user_files import with_newlines
from richkd.data.class_text import difference, is_number, normalized


def check_same_classes(
    expected: Sequence[str], received: Sequence[str], *, where: str, reference: str = "the training data"
) -> None:
    """Check that two class lists have the same names in the same order. Names are compared in NFC.

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
        Got: first difference at class 0: 'dog' where 'cat' was expected
        Fix: rename or reorder the classes so that both lists are identical.
    """
    expected, received = [*map(normalized, expected)], [*map(normalized, received)]
    if expected == received:
        return
    if sorted(expected) == sorted(received):
        rule = f"The classes of {where} must be in the order of {reference}"
    else:
        rule = f"The classes of {where} must be those of {reference}"
    got = _first_difference(expected, received)
    raise ClassError(rule, got=got, fix="rename or reorder the classes so that both lists are identical.")


def _first_difference(expected: Sequence[str], received: Sequence[str]) -> str:
    """The first place where two lists differ, the names that only one has, and those that look alike."""
    listed, known = set(received), set(expected)
    missing = [name for name in expected if name not in listed]
    extra = [name for name in received if name not in known]
    position = next(
        (i for i, (a, b) in enumerate(zip(expected, received, strict=False)) if a != b),
        min(len(expected), len(received)),
    )

    def at(names: Sequence[str]) -> str:
        return repr(names[position]) if position < len(names) else "nothing"

    counts = f"{len(received)} classes instead of {len(expected)}; "
    got = (
        f"{'' if len(received) == len(expected) else counts}first difference at class {position}: "
        f"{at(received)} where {at(expected)} was expected"
    )
    if missing:
        got += f"; missing: {', '.join(missing[:5])}{' …' if len(missing) > 5 else ''}"
    if extra:
        got += f"; unknown: {', '.join(extra[:5])}{' …' if len(extra) > 5 else ''}"
    pairs = ((name, difference(name, other)) for name in extra[:50] for other in missing[:50])
    return got + next((f"; '{name}' differs at {place}" for name, place in pairs if place), "")


def positions_of(
    expected: Sequence[str], received: Sequence[str], *, where: str, reference: str = "the training data"
) -> list[int]:
    """The position in ``expected`` of each received class, matched by name.

    Args:
        expected: the class names of the reference.
        received: the class names to find, which may be some of the expected ones in any order.
        where: the source of ``received``, for messages.
        reference: the source of ``expected``, for messages.

    Raises:
        ClassError: a received class is not expected.

    Example:
        >>> positions_of(["ant", "bee", "cow"], ["cow", "ant"], where="the test split")
        [2, 0]
    """
    expected, received = [*map(normalized, expected)], [*map(normalized, received)]
    if not set(received) <= set(expected):
        check_same_classes(expected, received, where=where, reference=reference)
    position = {name: place for place, name in enumerate(expected)}
    return [position[name] for name in received]


def clean_name(name: str) -> str:
    """Convert a class name to readable text in NFC: underscores become spaces, repeated spaces become one.

    Letter case is kept, because the tokenizers of some CLIP models distinguish ``"Crane"`` from ``"crane"``.

    Example:
        >>> clean_name("aquarium_fish")
        'aquarium fish'
    """
    return " ".join(normalized(name).replace("_", " ").split())


def read_names(file: Path, classes: int, labels: Sequence[str] = ()) -> tuple[str, ...]:
    """Read class names from a UTF-8 text file with one name per line, in label order.

    Args:
        file: path of the file.
        classes: number of classes.
        labels: names of these classes in the data, for messages.

    Raises:
        DataError: the file cannot be read.
        ClassError: the number of lines differs from the number of classes.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     file = Path(folder) / "names.txt"
        ...     length = file.write_text("great auk\\nbee")
        ...     read_names(file, classes=2)
        ('great auk', 'bee')
    """
    try:
        # Editors on Windows write a byte-order mark first; utf-8-sig drops it.
        text = read_regular(expanded(file), LIMIT).decode("utf-8-sig")
    except (OSError, ValueError, RuntimeError) as error:
        rule = f"Class names in {file} must be readable UTF-8 text"
        raise DataError(rule, got=str(error), fix="check --data.class_names.") from error
    names = [normalized(line.strip()) for line in with_newlines(text).rstrip().split("\n")]
    if len(names) != classes:
        rule = f"{file} must have a name for each of the {classes} classes"
        got = f"{len(names)} lines{_missing_labels(labels, len(names))}"
        raise ClassError(rule, got=got, fix="write one name per line, in label order.")
    return tuple(names)


def _missing_labels(labels: Sequence[str], names: int) -> str:
    """Which integer labels have no images, if the names are for more classes than the data have."""
    if len(labels) > names or not all(map(is_number, labels)):
        return ""
    numbers = set(map(int, labels))
    first = 0 if 0 in numbers or max(numbers, default=0) < names else 1
    missing = [str(number) for number in range(first, first + names) if number not in numbers]
    from_one = first == 0 and 0 not in numbers
    if not missing or len(missing) != names - len(numbers):
        return ""
    doubt = f", or of label {names} if labels count from 1" if from_one and len(missing) == 1 else ""
    return f"; no images of label {', '.join(missing[:5])}{' …' if len(missing) > 5 else ''}{doubt}"


def check_names(names: Sequence[str], where: str) -> None:
    """Check that class names are not empty and differ in more than underscores and spaces.

    Names that differ only in underscores or spaces would give two classes the same CLIP prompts.

    Raises:
        ClassError: an empty name, or two names that are equal in this sense.

    Example:
        >>> check_names(["sea_lion", "sea lion"], "zoo")
        Traceback (most recent call last):
            ...
        richkd.core.errors.ClassError: The class names of zoo must be unique, with underscores read as spaces
        Got: 'sea lion' and 'sea_lion'
        Fix: rename one of these classes.
    """
    first: dict[str, str] = {}
    for position, name in enumerate(names):
        clean = clean_name(name)
        if not clean or clean in first:
            got = f"{name!r} and {first[clean]!r}" if clean else f"an empty name for class {position}"
            raise ClassError(
                f"The class names of {where} must be unique, with underscores read as spaces",
                got=got,
                fix="rename one of these classes.",
            )
        first[clean] = name
