"""Small files that users write: text, and mappings in YAML or JSON in which no key may come twice."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from richkd.core.errors import RichKDError


def read_text(path: Path, refusal: type[RichKDError], what: str, hint: str) -> str:
    """The text of a UTF-8 file.

    Args:
        refusal: the error to raise where it cannot be read.
        what: what the file is said to hold, for messages.
        hint: how to mend it.
    """
    try:
        # Editors on Windows begin a file with a byte-order mark; utf-8-sig drops it.
        return path.expanduser().read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise refusal(f"{what} {path} cannot be read", got=str(error), fix=hint) from error


def parse_file(path: Path, refusal: type[RichKDError], what: str, form: str) -> Any:
    """What a YAML or JSON file holds.

    Args:
        refusal: the error to raise where it cannot be read, is damaged, or has a key twice.
        what: what the file is said to hold, for messages.
        form: how it is written.
    """
    text = read_text(path, refusal, what, f"name a YAML or JSON file: {form}.")
    try:
        if path.suffix == ".json":
            return json.loads(text, object_pairs_hook=_pairs_to_dict)
        return yaml.load(text, Loader=_Loader)
    except (yaml.YAMLError, ValueError, TypeError) as error:
        raise refusal(
            f"{path} is not valid {'JSON' if path.suffix == '.json' else 'YAML'}",
            got=str(error),
            fix=f"correct the file: {form}.",
        ) from error


class _DuplicateKeyError(ValueError):
    """The same key twice in one mapping, where YAML and JSON readers would keep the last."""


def _pairs_to_dict(pairs: list[tuple[Any, Any]]) -> dict[Any, Any]:
    mapping = dict(pairs)
    if len(mapping) < len(pairs):
        keys = [key for key, _ in pairs]
        raise _DuplicateKeyError(f"'{next(key for key in keys if keys.count(key) > 1)}' appears twice")
    return mapping


class _Loader(yaml.SafeLoader):
    """A safe YAML loader that refuses duplicate keys."""


def _construct_mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    # Depth first: a sequence that is filled after this call would still look empty to the caller.
    pairs = [
        (loader.construct_object(k, deep=True), loader.construct_object(v, deep=True)) for k, v in node.value
    ]
    return _pairs_to_dict(pairs)


_Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, _construct_mapping)
