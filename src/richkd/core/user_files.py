"""Read small files that users write: text, and YAML or JSON without duplicate keys."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from richkd.core.errors import RichKDError
from richkd.core.home import expanded
from richkd.core.regular_files import read_regular
from richkd.core.structured import parse_json, parse_yaml
from richkd.core.visible import one_line

# Largest text file in bytes; a list of ten million images has about this size.
LIMIT = 1 << 30


def read_text(path: Path, refusal: type[RichKDError], what: str, hint: str) -> str:
    """Read a UTF-8 text file, with or without a byte-order mark; ``~`` is expanded.

    Args:
        path: the file.
        refusal: class of the error to raise if the file cannot be read.
        what: what the file contains, for messages.
        hint: how to fix the problem, for messages.

    Raises:
        RichKDError: of class ``refusal``, if the file cannot be read, is not UTF-8, or is no regular file.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "prompts.txt"
        ...     size = path.write_text("a photo of a {}", encoding="utf-8")
        ...     read_text(path, RichKDError, "The prompt file", "check the path.")
        'a photo of a {}'
    """
    try:
        # Editors on Windows write a byte-order mark; utf-8-sig drops it.
        text = read_regular(expanded(path), LIMIT).decode("utf-8-sig")
    except (OSError, ValueError, RuntimeError) as error:  # RuntimeError: the home folder of ~ is unknown
        raise refusal(f"{what} {path} cannot be read", got=str(error), fix=hint) from error
    return with_newlines(text)


def with_newlines(text: str) -> str:
    r"""The text with ``\n`` at the end of each line, as Python reads files that are opened as text.

    Its lines are `str.split("\n")`. `str.splitlines` would also split names at characters such as U+2028.

    Example:
        >>> with_newlines("red\u2028panda\r\ncat").split("\n")
        ['red\u2028panda', 'cat']
    """
    return text.replace("\r\n", "\n").replace("\r", "\n")


def parse_file(path: Path, refusal: type[RichKDError], what: str, form: str) -> Any:
    """Parse a YAML file, or a JSON file if its name ends in ``.json``.

    Args:
        path: the file.
        refusal: class of the error to raise if the file is not usable.
        what: what the file contains, for messages.
        form: the expected structure, for messages.

    Raises:
        RichKDError: of class ``refusal``, if the file cannot be read, is not valid YAML or JSON, or has a
            duplicate key.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder) / "hierarchy.yaml"
        ...     size = path.write_text("animals: [cat, dog]", encoding="utf-8")
        ...     parse_file(path, RichKDError, "The hierarchy", "{superclass: [class, …]}")
        {'animals': ['cat', 'dog']}
    """
    text = read_text(path, refusal, what, f"pass a YAML or JSON file: {form}.")
    try:
        return parse_json(text) if path.suffix == ".json" else parse_yaml(text)
    except ValueError as error:
        raise refusal(
            f"{path} is not valid {'JSON' if path.suffix == '.json' else 'YAML'}",
            got=one_line(error),
            fix=f"correct the file: {form}.",
        ) from error
