"""Reading a plan from YAML: every mistake is named with its line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from richkd.config.listing import section_type
from richkd.config.loading import RECIPE_LIMIT
from richkd.config.messages import message_of
from richkd.config.schema import Section
from richkd.core.errors import ConfigError, Problems, nearest
from richkd.core.regular_files import read_regular
from richkd.core.structured import lines_of, parse_yaml
from richkd.core.visible import one_line

# How pydantic calls the place of a key.
KEY = "[key]"
# How many characters of a wrong value a message shows.
SHOWN = 200

AnyPlan = TypeVar("AnyPlan", bound=Section)
# The line of each part, by its path.
Lines = dict[tuple[str, ...], int]


@dataclass(frozen=True)
class _Form:
    """What a plan looks like."""

    model: type[Section]
    named_parts: tuple[str, ...]
    example: str


def read_plan_file(
    path: Path, model: type[AnyPlan], named_parts: Sequence[str], example: str
) -> tuple[AnyPlan, Lines]:
    """Read and validate a plan.

    Args:
        path: the file.
        model: the parts that it may have.
        named_parts: those whose entries have names of their own; each entry has at most one error.
        example: what a correct plan has, for messages.

    Returns:
        The plan, and the line of each part.

    Raises:
        ConfigError: the file cannot be read, a name or a value is wrong (all of them are listed, each with
            its line), or a key occurs twice.
    """
    text = _text_of(path)
    try:
        content = parse_yaml(text)
        lines = lines_of(text)
    except ValueError as error:
        raise ConfigError(
            f"The plan {path} cannot be read as YAML", got=one_line(error), fix="correct the file."
        ) from None
    if not isinstance(content, dict):
        got = repr(content)[:SHOWN]
        raise ConfigError(f"The plan {path} must have methods: and other parts", got=got, fix=example)
    try:
        return model.model_validate(content), lines
    except ValidationError as error:
        form = _Form(model, tuple(named_parts), example)
        raise _explained(error, path.name, lines, form) from None


def place_of(name: str, lines: Lines, path: tuple[str, ...]) -> str:
    """A part of a file for messages: the line of the part, or of the next one around it."""
    while path and path not in lines:
        path = path[:-1]
    return f"{name}, line {lines[path]}" if path else name


def _text_of(path: Path) -> str:
    fix = "check the path of the plan."
    try:
        return read_regular(path, RECIPE_LIMIT).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        rule = f"The plan {path} must be text in UTF-8"
        raise ConfigError(rule, got=one_line(error), fix="save it as UTF-8 in your editor.") from None
    except FileNotFoundError:
        raise ConfigError(f"The plan {path} does not exist", got="no such file", fix=fix) from None
    except (OSError, ValueError) as error:
        raise ConfigError(f"The plan {path} cannot be read", got=one_line(error), fix=fix) from None


def _explained(error: ValidationError, name: str, lines: Lines, form: _Form) -> ConfigError:
    """All errors of a validation, each with its line."""
    problems = Problems(ConfigError)
    # A value that may have several types has an error for each; the one that goes deepest says most.
    deepest: dict[tuple[str, ...], ErrorDetails] = {}
    for one in error.errors():
        path = tuple(str(part) for part in one["loc"])
        key = path[: 2 if path[0] in form.named_parts else 1]
        if key not in deepest or len(one["loc"]) > len(deepest[key]["loc"]):
            deepest[key] = one
    for key, one in deepest.items():
        path = tuple(str(part) for part in one["loc"])
        if path[-1] == KEY:
            key = _above(path[:-2], lines)
            path = next((p for p in lines if p[:-1] == key and _is(p[-1], one["input"])), key)
        place = place_of(name, lines, path)
        problems.attempt(_refuse, one, ".".join(key), place, form)
    try:
        problems.refuse_all()
    except ConfigError as refused:
        return refused
    raise AssertionError("a validation failed without an error")


def _above(location: tuple[str, ...], lines: Lines) -> tuple[str, ...]:
    """The part around a place of pydantic, which also has the types that a value may have."""
    path: tuple[str, ...] = ()
    for part in location:
        path = (*path, part) if (*path, part) in lines else path
    return path


def _is(key: str, value: object) -> bool:
    """Whether YAML reads the text of a key as this value."""
    return repr(parse_yaml(key)) == repr(value)


def _refuse(error: ErrorDetails, key: str, place: str, form: _Form) -> None:
    field = form.model.model_fields.get(key.split(".")[0])
    if error["type"] == "extra_forbidden":
        parts = form.model.model_fields
        if len(error["loc"]) > 1:
            inner = ".".join(str(part) for part in error["loc"])
            section = None if field is None else section_type(field)
            hint = "" if section is None else nearest(str(error["loc"][-1]), section.model_fields)
            raise ConfigError(f"A plan has no part '{inner}' ({place})", fix=hint)
        hint = nearest(key, parts, f"They are {', '.join(parts)}.")
        raise ConfigError(f"A plan has no part '{key}' ({place})", fix=hint)
    if error["type"] == "missing":
        raise ConfigError(f"A plan must have the part '{key}' ({place})", got="none", fix=form.example)
    if error["type"] == "invalid_key" or error["loc"][-1] == KEY:
        fix = "put it into quotes; YAML reads on, off, yes and no as true and false."
        rule = f"A name in '{key}' must be text ({place})"
        raise ConfigError(rule, got=repr(error["input"])[:SHOWN], fix=fix)
    meaning = "" if field is None else f"it is: {field.description}."
    raise ConfigError(
        f"'{key}' of the plan does not take this value: {message_of(error)} ({place})",
        got=repr(error["input"])[:SHOWN],
        fix=meaning,
    )
