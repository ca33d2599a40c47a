"""Read small files that users write: text, and YAML or JSON without duplicate keys."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from richkd.core.errors import RichKDError
from richkd.core.visible import one_line


def read_text(path: Path, refusal: type[RichKDError], what: str, hint: str) -> str:
    """Read a UTF-8 text file, with or without a byte-order mark; ``~`` is expanded.

    Args:
        path: the file.
        refusal: class of the error to raise if the file cannot be read.
        what: what the file contains, for messages.
        hint: how to fix the problem, for messages.

    Raises:
        RichKDError: of class ``refusal``, if the file cannot be read or is not UTF-8.

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
        return path.expanduser().read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise refusal(f"{what} {path} cannot be read", got=str(error), fix=hint) from error


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
        if path.suffix == ".json":
            return json.loads(text, object_pairs_hook=_pairs_to_dict)
        return yaml.load(text, Loader=_Loader)
    except (yaml.YAMLError, ValueError, TypeError) as error:
        raise refusal(
            f"{path} is not valid {'JSON' if path.suffix == '.json' else 'YAML'}",
            got=one_line(error),
            fix=f"correct the file: {form}.",
        ) from error


class _DuplicateKeyError(ValueError):
    """A mapping has the same key twice; the standard YAML and JSON readers would silently keep the last."""


def _pairs_to_dict(pairs: list[tuple[Any, Any]]) -> dict[Any, Any]:
    mapping = dict(pairs)
    if len(mapping) < len(pairs):
        keys = [key for key, _ in pairs]
        raise _DuplicateKeyError(f"'{next(key for key in keys if keys.count(key) > 1)}' appears twice")
    return mapping


class _Loader(yaml.SafeLoader):
    """A safe YAML loader that rejects duplicate keys."""


def _construct_mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    # deep=True: otherwise nested sequences are filled after this call and are still empty here.
    pairs = [
        (loader.construct_object(k, deep=True), loader.construct_object(v, deep=True)) for k, v in node.value
    ]
    return _pairs_to_dict(pairs)


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _construct_mapping)
