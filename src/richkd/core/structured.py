"""Parse JSON and YAML that users wrote: no duplicate keys, no expanding aliases, and one class of errors."""

from __future__ import annotations

import json
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import yaml

from richkd.core.regular_files import read_regular

# Largest file of settings or names in bytes. The reader of YAML needs a second for 100 KB.
LIMIT = 64 << 20
# Aliases may repeat parts of a file up to this number of nodes, and up to this multiple of its own.
REPEATED, MULTIPLE = 10_000, 10


def parse_json(text: str | bytes) -> Any:
    """Parse JSON; a key may occur once in an object.

    Raises:
        ValueError: the text is no JSON, has a duplicate key, or is nested too deeply.

    Example:
        >>> parse_json('{"a": [1]}')
        {'a': [1]}
        >>> parse_json('{"a": 1, "a": 2}')
        Traceback (most recent call last):
            ...
        ValueError: 'a' appears twice
    """
    try:
        return json.loads(text, object_pairs_hook=_unique)
    except RecursionError:
        raise ValueError("lists or objects are nested too deeply") from None


def read_json(path: Path, limit: int = LIMIT) -> Any:
    """Parse a JSON file with `parse_json`.

    Raises:
        OSError: the file cannot be read, is no regular file, or has more than ``limit`` bytes.
        ValueError: see `parse_json`; or the file is not UTF-8.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     size = (Path(folder) / "a.json").write_text("[1]")
        ...     read_json(Path(folder) / "a.json")
        [1]
    """
    return parse_json(read_regular(path, limit).decode("utf-8-sig"))


def read_yaml(path: Path, limit: int = LIMIT) -> Any:
    """Parse a YAML file with `parse_yaml`.

    Raises:
        OSError: the file cannot be read, is no regular file, or has more than ``limit`` bytes.
        ValueError: see `parse_yaml`; or the file is not UTF-8.

    Example:
        >>> import tempfile
        >>> with tempfile.NamedTemporaryFile() as file:
        ...     read_yaml(Path(file.name)) is None  # an empty file
        True
    """
    # Editors on Windows write a byte-order mark first; utf-8-sig drops it.
    return parse_yaml(read_regular(path, limit).decode("utf-8-sig"))


def parse_yaml(text: str) -> Any:
    """Parse YAML with plain data only; a key may occur once in a mapping.

    Merge keys (``<<``) and aliases are allowed as long as they do not repeat much more than the text holds.

    Raises:
        ValueError: the text is no YAML, has a duplicate key or an unknown tag, refers to itself, or is nested
            too deeply. The message has the number of the line.

    Example:
        >>> parse_yaml("base: &b {x: 1}\\nnext: {<<: *b, y: 2}")
        {'base': {'x': 1}, 'next': {'x': 1, 'y': 2}}
        >>> parse_yaml("lr: 1\\nlr: 2")
        Traceback (most recent call last):
            ...
        ValueError: line 2: 'lr' appears twice, first in line 1
    """
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        _check(loader, node)
        return loader.construct_document(node)
    except RecursionError:
        raise ValueError("lists or mappings are nested too deeply") from None
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from error
    # Constructors of scalars fail in many ways, for example for !!int without digits.
    except (TypeError, LookupError, AttributeError, OverflowError) as error:
        raise ValueError(f"a value that cannot be read: {type(error).__name__}: {error}") from error


def lines_of(text: str) -> dict[tuple[str, ...], int]:
    """The line of every key and list item of YAML that `parse_yaml` accepts, by its path; for messages.

    Items of lists are named by their position from 0.

    Raises:
        ValueError: see `parse_yaml`.

    Example:
        >>> lines_of("optim:\\n  lr: 1\\nseeds: [0, 1]")[("optim", "lr")]
        2
    """
    parse_yaml(text)  # bounds what aliases repeat
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    lines: dict[tuple[str, ...], int] = {}

    def visit(node: yaml.Node, path: tuple[str, ...]) -> None:
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                # What "<<" adds is a part of this mapping, unless a key of its own replaces it.
                inner = path if key.value == "<<" else (*path, key.value)
                lines.setdefault(inner, key.start_mark.line + 1)
                visit(value, inner)
        elif isinstance(node, yaml.SequenceNode):
            for place, item in enumerate(node.value):
                lines.setdefault((*path, str(place)), item.start_mark.line + 1)
                visit(item, (*path, str(place)))

    if root is not None:
        visit(root, ())
    return lines


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A mapping of the pairs; the standard reader would silently keep the last of equal keys."""
    mapping = dict(pairs)
    if len(mapping) < len(pairs):
        known: set[str] = set()
        twice = next(key for key, _ in pairs if key in known or known.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"'{twice}' appears twice")
    return mapping


class _Loader(yaml.SafeLoader):
    """A safe loader of plain data."""

    def check_keys(self, node: yaml.Node) -> None:
        """Check the keys of a mapping, before merge keys add those of other mappings to it."""
        first: dict[Hashable, int] = {}
        for key, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode):
                raise ValueError(f"line {line}: a key must be text or a number, not a list or mapping")
            name = self.construct_object(key)
            if name in first:
                raise ValueError(f"line {line}: {name!r} appears twice, first in line {first[name]}")
            first[name] = line


# The text "<<" as a key is a merge; as a value it is text.
_Loader.add_constructor("tag:yaml.org,2002:merge", lambda loader, node: node.value)


def _check(loader: _Loader, root: yaml.Node) -> None:
    """Refuse duplicate keys, values that contain themselves, and aliases that expand to very many values."""
    sizes: dict[int, int] = {}
    above: set[int] = set()

    def size(node: yaml.Node) -> int:
        if id(node) in sizes:
            return sizes[id(node)]
        if id(node) in above:
            raise ValueError(f"line {node.start_mark.line + 1}: a value must not contain itself")
        loader.check_keys(node)
        above.add(id(node))
        sizes[id(node)] = 1 + sum(map(size, _children(node)))
        above.remove(id(node))
        return sizes[id(node)]

    total = size(root)
    if total > REPEATED + MULTIPLE * len(sizes):
        raise ValueError(f"aliases (*) repeat {len(sizes):,} values until they are {total:,}")


def _children(node: yaml.Node) -> list[yaml.Node]:
    if isinstance(node, yaml.SequenceNode):
        return list(node.value)
    return [part for pair in node.value for part in pair] if isinstance(node, yaml.MappingNode) else []
