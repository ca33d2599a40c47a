"""Registries: the named choices of one kind, such as ways of mixing or loss terms, each in one place.

A registry is declared with the package that holds its entries, and is filled when it is first read: every
module of that package is imported, and registers what it defines. A new entry is therefore one new module.
Settings, ``richkd settings``, ``--help`` and error messages all read the names from here.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from richkd.core.errors import ConfigError, nearest

T = TypeVar("T")


@dataclass(frozen=True)
class Entry(Generic[T]):
    """A named choice: its value, one sentence for people, and whether it is still an experiment."""

    name: str
    value: T
    summary: str
    experimental: bool = False


class Registry(Generic[T]):
    """Entries of one kind by name, in the order in which they were registered.

    Args:
        kind: what an entry is called in messages, such as ``"mixing"``.
        home: module or package whose import registers the entries.
        listing: a sentence that says where all entries are listed, for messages.

    Example:
        >>> shapes = Registry[int]("shape", home="richkd.core.registry")
        >>> corners = shapes.register("triangle", "three corners")(3)
        >>> shapes["triangle"], list(shapes), "circle" in shapes
        (3, ['triangle'], False)
    """

    def __init__(self, kind: str, home: str, listing: str = "") -> None:
        self.kind, self.listing, self._home = kind, listing, home
        self._entries: dict[str, Entry[T]] = {}
        self._loaded = False

    def register(self, name: str, summary: str, *, experimental: bool = False) -> Callable[[T], T]:
        """A decorator that registers a class or function under ``name``, or a value when called with it."""

        def add(value: T) -> T:
            assert name not in self._entries, f"{self.kind} '{name}' is registered twice"
            self._entries[name] = Entry(name, value, summary, experimental)
            return value

        return add

    def __getitem__(self, name: str) -> T:
        """The value of an entry.

        Raises:
            ConfigError: no such entry, with the nearest name.
        """
        return self.entry(name).value

    def entry(self, name: str) -> Entry[T]:
        """An entry with its summary.

        Raises:
            ConfigError: no such entry, with the nearest name.
        """
        entries = self._read()
        if name not in entries:
            hint = nearest(name, entries, self.listing)
            raise ConfigError(f"There is no {self.kind} '{name}'", fix=hint)
        return entries[name]

    def __contains__(self, name: object) -> bool:
        return name in self._read()

    def __iter__(self) -> Iterator[str]:
        return iter(self._read())

    def __len__(self) -> int:
        return len(self._read())

    def entries(self, *, experimental: bool = True) -> tuple[Entry[T], ...]:
        """All entries, or those that are no experiments."""
        return tuple(e for e in self._read().values() if experimental or not e.experimental)

    def _read(self) -> dict[str, Entry[T]]:
        if not self._loaded:
            # Modules of the home package may read the registry while they are imported.
            self._loaded = True
            try:
                self._import_home()
            except BaseException:
                self._loaded = False
                raise
        return self._entries

    def _import_home(self) -> None:
        home = importlib.import_module(self._home)
        for module in pkgutil.iter_modules(getattr(home, "__path__", [])):
            importlib.import_module(f"{self._home}.{module.name}")


@dataclass(frozen=True)
class OneOf:
    """Marks a setting whose value is the name of an entry: ``Annotated[str, OneOf(MIXINGS)]``.

    pydantic refuses other names with the registry's own message.
    """

    registry: Registry[Any]

    def __get_pydantic_core_schema__(self, source: Any, handler: Any) -> Any:
        from pydantic_core import core_schema

        return core_schema.no_info_after_validator_function(self._check, handler(source))

    def _check(self, value: Any) -> Any:
        if value is not None and value not in self.registry:
            hint = nearest(str(value), self.registry, self.registry.listing)
            raise ValueError(f"no {self.registry.kind} '{value}'; {hint}")
        return value
