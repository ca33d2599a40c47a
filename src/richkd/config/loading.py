"""Where settings come from: recipes in YAML, dotted overrides, and what to say of a mistyped one.

A setting is known by its dotted name (``optim.lr``), the same in a recipe, on the command line
(``--optim.lr 0.1``) and in Python (``config.optim.lr``). Later sources win: defaults, recipe, overrides.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, get_origin

import yaml
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from richkd.config.schema import Config, Section
from richkd.core.errors import ConfigError, nearest


def settings() -> Iterator[tuple[str, str, str]]:
    """Each setting's dotted name, default and description, in the order of :class:`Config`."""
    for section, field in Config.model_fields.items():
        model = _section_type(section)
        if model is None:
            yield section, str(field.default), field.description or ""
            continue
        for name, inner in model.model_fields.items():
            default = "required" if inner.is_required() else str(inner.default)
            yield f"{section}.{name}", default, inner.description or ""


def load_config(recipe: Path | None = None, overrides: Mapping[str, Any] | None = None) -> Config:
    """Build a :class:`Config` from defaults, a YAML recipe and dotted overrides, the later winning.

    Args:
        recipe: YAML file with nested settings.
        overrides: dotted name → value; a text value is read as YAML, so ``"0.1"`` is a number, except
            for settings that are texts or paths: a folder may be called ``2024`` or ``on``.

    Raises:
        ConfigError: naming the setting that does not exist (with the nearest one) or its bad value.
    """
    merged: dict[str, Any] = {}
    if recipe is not None:
        merged = _read_recipe(recipe)
    for dotted, value in (overrides or {}).items():
        _assign(merged, dotted, _read_text(dotted, value) if isinstance(value, str) else value)
    try:
        return Config.model_validate(merged)
    except ValidationError as error:
        raise _explain(error.errors()[0], str(recipe) if recipe else "the settings") from None


def dotted_overrides(tokens: Sequence[str], options: Iterable[str] = ()) -> dict[str, str]:
    """Read ``--optim.lr 0.1 --augment.flip=false`` into ``{"optim.lr": "0.1", "augment.flip": "false"}``.

    ``options`` are a command's own, which a mistyped name may have meant.

    Raises:
        ConfigError: a token that is no option, an option without a value, or an unknown setting.
    """
    known = {name for name, _, _ in settings()}
    overrides: dict[str, str] = {}
    remaining = list(tokens)
    while remaining:
        token = remaining.pop(0)
        if not token.startswith("--"):
            raise ConfigError(
                "Settings are given as --section.name value", got=repr(token), fix="see `richkd settings`."
            )
        name, equals, value = token[2:].partition("=")
        name = name.replace("-", "_")
        if name not in known:
            hint = _nearest_setting(name, options, prefix="--")
            raise ConfigError(f"There is no option --{name}", fix=f"{hint} `richkd settings` lists them all.")
        if not equals:
            if not remaining:
                raise ConfigError(f"Option --{name} needs a value", fix=f"write --{name} VALUE.")
            value = remaining.pop(0)
        overrides[name] = value
    return overrides


def _read_recipe(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"The recipe {path} does not exist", fix="check the path after -c.") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"The recipe {path} cannot be read as YAML", got=str(error)) from None
    if not isinstance(content, dict):
        raise ConfigError(
            f"The recipe {path} must hold sections such as data: and student:", got=repr(content)
        )
    return content


def _read_text(dotted: str, text: str) -> Any:
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        value = text
    # "null" unsets a text, too; a comment, as in "#1", is no null.
    is_text = _takes_text(dotted) and text.lower() not in ("", "~", "null")
    return text if is_text else value


def _takes_text(dotted: str) -> bool:
    section, _, leaf = dotted.rpartition(".")
    model = Config if not section else _section_type(section) if section in Config.model_fields else None
    if model is None or leaf not in model.model_fields:
        return False
    annotation = model.model_fields[leaf].annotation
    return bool({str, Path} & {annotation, *getattr(annotation, "__args__", ())})


def _nearest_setting(dotted: str, options: Iterable[str] = (), prefix: str = "") -> str:
    """A hint at settings of the same last part, as ``optim.lr`` for ``lr``, or of a similar name."""
    known = [name for name, _, _ in settings()]
    same = [name for name in known if name.rpartition(".")[2] == dotted.rpartition(".")[2]]
    if same:
        return "Did you mean " + " or ".join(f"'{prefix}{name}'" for name in same) + "?"
    return nearest(dotted, {*known, *Config.model_fields, *options})


def _assign(tree: dict[str, Any], dotted: str, value: Any) -> None:
    *sections, leaf = dotted.split(".")
    for section in sections:
        # YAML reads a section without settings as null.
        if tree.get(section) is None:
            tree[section] = {}
        tree = tree[section]
        if not isinstance(tree, dict):
            raise ConfigError(f"{section} must be a section of settings", got=repr(tree))
    tree[leaf] = value


def _section_type(name: str) -> type[Section] | None:
    annotation = Config.model_fields[name].annotation
    if get_origin(annotation) is tuple:
        return None  # a list of sections is one setting
    for candidate in (annotation, *getattr(annotation, "__args__", ())):
        if isinstance(candidate, type) and issubclass(candidate, Section):
            return candidate
    return None


def _explain(error: ErrorDetails, where: str) -> ConfigError:
    location = [str(part) for part in error["loc"]]
    dotted = ".".join(location)
    if error["type"] == "extra_forbidden":
        return ConfigError(f"There is no setting '{dotted}' (in {where})", fix=_nearest_setting(dotted))
    # Deeper places are items of a list that is too short.
    if error["type"] == "missing" and len(location) <= 2:
        flag = {"data": "data", "student": "student"}.get(location[0], dotted)
        return ConfigError(
            f"Setting '{dotted}' is needed and was not given", fix=f"add --{flag} or a recipe (-c)."
        )
    return ConfigError(
        f"Setting '{dotted}' does not take this value: {error['msg']}", got=repr(error["input"])
    )
