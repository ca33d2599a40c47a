"""All settings as a table: dotted name, default, allowed values and meaning."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, get_args, get_origin

from pydantic.fields import FieldInfo

from richkd.config.choices import TERMS
from richkd.config.schema import Config, Section
from richkd.core.registry import OneOf


@dataclass(frozen=True)
class Setting:
    """One setting, as people read it.

    Attributes:
        name: dotted name.
        default: as it is written in a recipe; "required" or "" (none) otherwise.
        choices: allowed values with a sentence each (empty for plain values); empty if any value of the type
            is taken.
        meaning: what it does.
    """

    name: str
    default: str
    choices: tuple[tuple[str, str], ...]
    meaning: str


def settings(word: str = "") -> Iterator[Setting]:
    """All settings whose name, values or meaning contain a word (case does not matter).

    Experimental choices are left out unless the word names the setting.

    Example:
        >>> [setting.name for setting in settings("optim.lr")]
        ['optim.lr']
        >>> [setting.choices for setting in settings("train.compile")][0]
        (('auto', ''), ('always', ''), ('never', ''))
    """
    for setting in _all(experimental=bool(word)):
        words = [setting.name, setting.meaning, *(name for name, _ in setting.choices)]
        if word.lower() in " ".join(words).lower():
            yield setting


def choices_of(dotted: str) -> tuple[str, ...]:
    """The allowed values of a setting; empty if it takes any value of its type.

    Example:
        >>> choices_of("method.variant")
        ('l', 'f', 'lf')
    """
    return next((tuple(n for n, _ in s.choices) for s in _all(experimental=True) if s.name == dotted), ())


def takes_whole_numbers(dotted: str) -> bool:
    """Whether all numbers that a setting takes are whole.

    Example:
        >>> takes_whole_numbers("train.batch_size"), takes_whole_numbers("optim.lr")
        (True, False)
    """
    fields = dict(fields_of(Config))
    for entry in TERMS.entries(experimental=True):
        fields |= {f"objective.{entry.name}.{leaf}": f for leaf, f in entry.value.Config.model_fields.items()}
    annotation = fields[dotted].annotation if dotted in fields else None
    return annotation is int or (int in get_args(annotation) and float not in get_args(annotation))


def section_type(field: FieldInfo, *, items: bool = False) -> type[Section] | None:
    """The section that a field of `Config` holds, or None; with ``items``, also the sections of a list.

    Example:
        >>> section_type(Config.model_fields["student"]).__name__
        'ModelConfig'
        >>> section_type(Config.model_fields["teachers"]) is None
        True
    """
    annotation = field.annotation
    if get_origin(annotation) is tuple and not items:
        return None  # a list of sections is one setting
    for candidate in (annotation, *get_args(annotation)):
        if isinstance(candidate, type) and issubclass(candidate, Section):
            return candidate
    return None


@cache
def fields_of(section: type[Section], prefix: str = "") -> tuple[tuple[str, FieldInfo], ...]:
    """The dotted name and the field of every setting of a section, also of sections in it.

    Example:
        >>> [name for name, _ in fields_of(Config) if name.endswith("alpha")][:3]
        ['augment.mixup_alpha', 'augment.cutmix_alpha', 'fusion.alpha']
    """
    fields: list[tuple[str, FieldInfo]] = []
    for name, field in section.model_fields.items():
        inner = section_type(field)
        fields += fields_of(inner, f"{prefix}{name}.") if inner is not None else ((f"{prefix}{name}", field),)
    return tuple(fields)


def _all(*, experimental: bool) -> Iterator[Setting]:
    for name, field in fields_of(Config):
        yield _setting(name, field, experimental)
        if name == "objective":
            yield from _terms(experimental)


def _terms(experimental: bool) -> Iterator[Setting]:
    for entry in TERMS.entries(experimental=experimental):
        yield Setting(f"objective.{entry.name}", "", (), f"term: {entry.summary}")
        for name, field in entry.value.Config.model_fields.items():
            yield _setting(f"objective.{entry.name}.{name}", field, experimental)


def _setting(name: str, field: FieldInfo, experimental: bool) -> Setting:
    return Setting(name, default_text(field), _choices(field, experimental), field.description or "")


def default_text(field: FieldInfo) -> str:
    """The default of a setting as it is written in a recipe; "required" or "" if there is none.

    Example:
        >>> default_text(Config.model_fields["out"]), default_text(Config.model_fields["data"])
        ('runs/latest', 'required')
    """
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if value is None or value == {} or value == ():
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    return "[" + ", ".join(map(str, value)) + "]" if isinstance(value, tuple) else str(value)


def _choices(field: FieldInfo, experimental: bool) -> tuple[tuple[str, str], ...]:
    markers = [mark for mark in _metadata(field) if isinstance(mark, OneOf)]
    if markers:
        entries = markers[0].registry.entries(experimental=experimental)
        return tuple((entry.name, entry.summary) for entry in entries)
    return tuple((str(value), "") for value in _literals(field.annotation))


def _metadata(field: FieldInfo) -> list[Any]:
    inner = [mark for part in get_args(field.annotation) for mark in getattr(part, "__metadata__", ())]
    return [*field.metadata, *inner]


def _literals(annotation: Any) -> tuple[Any, ...]:
    if get_origin(annotation) is Literal:
        return get_args(annotation)
    return tuple(value for part in get_args(annotation) for value in _literals(part))
